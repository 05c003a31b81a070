"""The findings as files."""

import csv

import pytest

from episodic.config.compose import compose_config
from episodic.config.paths import quoted_arguments
from episodic.doctor.__main__ import main, with_data
from tests.doctor.examining import SMALL


def test_the_list_as_csv_has_a_line_for_each_image(birds, tmp_path):
    for i in range(3):
        (birds / "train" / "train0" / f"{i}.png").write_text("no picture, but text")
    cfg = compose_config(
        "doctor", quoted_arguments([f"data={birds}", *SMALL, f"out={tmp_path / 'report.csv'}"], with_data)
    )
    with pytest.raises(SystemExit):
        main(cfg)
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bad = [row for row in rows if row["mark"] == "error" and row["section"] == "files"]
    assert [row["image"] for row in bad] == [f"train/train0/{i}.png" for i in range(3)]
    assert {row["section"] for row in rows} == {"cache", "files", "classes", "episodes", "duplicates"}
