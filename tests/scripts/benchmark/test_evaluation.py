"""Evaluation beside easyfsl on real images."""

from pathlib import Path

import pytest

from tests.scripts.benchmark.rows import check, needs, run

DATA = Path(__file__).parents[4] / "shared" / "data"


def test_missing_data_is_skipped(benchmark, tmp_path, capsys):
    benchmark.main(["evaluation", "--data-dir", str(tmp_path)])
    assert "evaluation: skipped from here on: miniimagenet has no val split on disk" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not there")
@needs("easyfsl")
def test_evaluation_against_the_peer(scripts, tmp_path):
    sizes = ["--episodes", "40", "--peer-episodes", "2", "--data-dir", str(DATA)]
    out, rows = run(scripts, tmp_path, "evaluation", *sizes)
    check(rows, {"evaluation / easyfsl evaluate": 200})
    assert "100.00% of 150 answers equal" in out
