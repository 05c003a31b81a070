"""Label propagation answers as scikit-learn does, and no ratio is told where it does not."""

import re

import pytest

from tests.scripts.benchmark.rows import check, run


@pytest.mark.slow
def test_propagation_against_scikit_learn(scripts, tmp_path):
    out, rows = run(scripts, tmp_path, "propagation")
    from benchmark import propagation

    check(rows, dict.fromkeys(propagation.CASES, 50))
    for name in propagation.CASES:
        assert re.search(rf"{re.escape(name)}: (100\.00|99\.9\d)% of 3,750 answers equal", out)


def test_no_ratio_where_the_answers_of_label_propagation_differ(benchmark, monkeypatch):
    from benchmark import propagation

    row = next(iter(propagation.CASES))
    hardware = benchmark.Hardware.choose("cpu")
    assert propagation.compare(row, hardware)
    monkeypatch.setattr(propagation, "GAMMA", 1 / 33)
    answers = propagation.ours(row, hardware)
    monkeypatch.setattr(propagation, "GAMMA", 1 / 32)
    monkeypatch.setattr(propagation, "ours", lambda row, hardware: answers)
    assert not propagation.compare(row, hardware)
    with pytest.raises(SystemExit, match="our results differ from the peer's"):
        benchmark.main(["propagation"])
