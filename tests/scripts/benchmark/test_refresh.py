"""A refresh of pseudo-labels is told by stages, and no ratio is told where it finds other labels."""

import json

import pytest

from tests.conftest import random_store


@pytest.fixture
def refresh(benchmark, monkeypatch):
    """The rows of a refresh of 12 classes of 20 random images."""
    from benchmark import refresh

    class Random:
        mean, std = [0.5], [0.25]

        def __init__(self, data_dir):
            pass

        def store(self, split):
            return random_store(classes=12, size=16, split=split, separation=0.5)

    monkeypatch.setattr(refresh, "MiniImageNet", Random)
    monkeypatch.setattr(refresh, "Conv4", lambda: refresh.torch.nn.Flatten())
    monkeypatch.setattr(refresh, "NEIGHBORS", 10)
    return refresh


def test_a_refresh_is_told_by_stages(benchmark, refresh, tmp_path, capsys):
    file = tmp_path / "rows.json"
    benchmark.main(["refresh", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [row["row"] for row in rows] == [f"refresh, {name}" for name in ("embedding", "graph", "diffusion", "total")]
    assert all(row["items"] == 240 and row["unit"] == "s" for row in rows)
    assert rows[3]["ours"] == pytest.approx(sum(row["ours"] for row in rows[:3]))
    for row in rows[1:3]:
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
    assert "refresh of 240 items" in capsys.readouterr().out


def test_no_ratio_where_a_refresh_finds_other_labels(benchmark, refresh, monkeypatch):
    right = refresh.diffusion.diffuse
    monkeypatch.setattr(refresh.diffusion, "diffuse", lambda graph, known, *rest: right(graph, known % 5, *rest))
    with pytest.raises(SystemExit, match="our results differ from the peers'"):
        benchmark.main(["refresh"])


def test_a_refresh_without_its_images_is_skipped(benchmark, tmp_path, capsys):
    benchmark.main(["refresh", "--data-dir", str(tmp_path)])
    assert "refresh: skipped: miniimagenet has no train split on disk" in capsys.readouterr().out
