"""Losses are told beside their peers with how far apart both are."""

import json
import math

import pytest


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn are too high")
def test_losses_are_told_beside_their_peers_with_how_far_apart_both_are(benchmark, monkeypatch, tmp_path, capsys):
    from benchmark import losses

    monkeypatch.setattr(losses, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(losses, "SHAPES", ((24, 8), (32, 8)))
    monkeypatch.setattr(losses, "TOO_LARGE", {"lifted_structure": 24})
    file = tmp_path / "rows.json"
    benchmark.main(["losses", "--repeats", "1", "--json", str(file)])
    *rows, mean = json.loads(file.read_text())
    assert len(rows) == 2 * len(losses.NAMES)
    largest = [row["ratio"] for row in rows if row["items"] == 32 and "ratio" in row]
    assert len(largest) == len(losses.NAMES) - 1
    assert mean["ratio"] == pytest.approx(math.prod(largest) ** (1 / len(largest)))
    assert (mean["row"], mean["items"], mean["dim"], mean["target"]) == ("loss, geometric mean", 32, 8, 2)
    for row in rows:
        if row["row"] == "loss, lifted_structure" and row["items"] == 32:
            assert "peer" not in row
            continue
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert row["target"] == 1
        rounding = 0.02 if row["row"] == "loss, ranked_list" else 1e-4  # the peer adds 1e-5 to each of its weights
        assert max(row["value_error"], row["gradient_error"]) < rounding, row
        assert row["bf16_gradient_error"] < 0.05, row
    assert "24 x 8" in capsys.readouterr().out
