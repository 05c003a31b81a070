"""The table of learners tells options that there are, in the order of accuracy."""

import json

import pytest

from episodic.config.overrides import check_overrides


def test_the_options_of_each_row_are_options_of_today():
    from tables import learners

    rows = learners.rows("learners")
    assert len(rows) == 10
    for row in rows:
        assert len(row) == len(learners.HEADER)
        options = row[0].split("`")[1].replace("<base_classifier>", "runs/base").split()
        check_overrides("train", ["experiment=learners_omniglot", *options])


@pytest.mark.parametrize("same", [True, False])
def test_a_cell_is_kept_beside_those_of_the_other_data_set(records, tmp_path, same):
    from tables import learners

    run, run20 = tmp_path / "run", tmp_path / ("run" if same else "other")
    for folder in {run, run20}:
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"steps": 3, "test/accuracy": 0.5, "val/accuracy": 0.6}))
    (run / "evaluations").mkdir()
    (run / "evaluations" / "a.json").write_text(json.dumps({"test/accuracy": 0.25}))
    for dataset in learners.DATASETS:
        learners.add("anil", "learner=anil", dataset, run, run20)
    cell = {"training": {"steps": 3}, "5": {"test/accuracy": 0.5}, "20": {"test/accuracy": 0.25 if same else 0.5}}
    assert records.read("learners/anil") == {"options": "learner=anil", "omniglot": cell, "glyphs": cell}
