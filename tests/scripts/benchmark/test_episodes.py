"""Drawing episodes beside the peers; the table tells ratios, targets and what is skipped."""

import json
import re

import pytest

from tests.scripts.benchmark.rows import check, needs, run

EASYFSL = {
    "indices, blocks / easyfsl TaskSampler": 20,
    "indices, lists / easyfsl TaskSampler": None,
    "DataLoader / easyfsl TaskSampler": None,
}
LEARN2LEARN = {
    "indices, blocks / learn2learn FusedNWaysKShots": 20,
    "indices, blocks / learn2learn NWays+KShots": None,
    "DataLoader, 64 at once / learn2learn TaskDataset.sample": 20,
}


def test_rows_tell_ours_the_peers_ratio_and_target_and_a_missing_peer_is_skipped(
    benchmark, tmp_path, monkeypatch, capsys
):
    from benchmark import episodes

    done = []

    def in_child(function, row, seconds):
        if "NWays+KShots" in row:
            raise ImportError("No module named 'learn2learn'")
        return 1e12 if "Fused" in row else 2.5

    monkeypatch.setattr(episodes, "rate", lambda step, seconds: done.append(step()) or 100.0)
    monkeypatch.setattr(episodes, "in_child", in_child)
    file = tmp_path / "rows.json"
    benchmark.main(["indices", "--repeats", "2", "--json", str(file)])
    assert min(done) > 0  # every step did some episodes
    rows = json.loads(file.read_text())
    fused = "indices, blocks / learn2learn FusedNWaysKShots"
    check(rows, EASYFSL | {fused: 20})
    assert [row["peer"] for row in rows] == [2.5, 2.5, 2.5, 1e12]
    assert [row["ratio"] for row in rows] == [40, 40, 40, 1e-10]
    out = capsys.readouterr().out
    assert "indices: skipped from here on: No module named 'learn2learn'" in out
    assert re.search(rf"^{next(iter(EASYFSL))} .*  20  ", out, re.MULTILINE)
    assert [line.split("  ")[0] for line in out.splitlines() if "20, missed" in line] == [fused]


@pytest.mark.slow
@needs("easyfsl")
def test_torchs_sampler_is_left_as_it_was():
    from benchmark import episodes, measuring

    before = measuring.Sampler.__init__
    assert measuring.task_sampler(episodes.Items(), 1).n_tasks == 1
    assert measuring.Sampler.__init__ is before


@pytest.mark.slow
@needs("easyfsl")
@needs("learn2learn")
def test_indices_against_the_peers(scripts, tmp_path):
    check(run(scripts, tmp_path, "indices")[1], EASYFSL | LEARN2LEARN)
