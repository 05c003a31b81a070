"""The table of results: its experiments and tasks are there, and a record is a run's last evaluation."""

import json

from episodic.config.overrides import check_overrides


def test_the_experiments_and_tasks_of_the_rows_are_there():
    from tables import scores

    rows = scores.rows("results")
    assert len(rows) == 10
    for row in rows:
        assert len(row) == len(scores.HEADER)
        *experiment, task = (part.strip("`") for part in row[0].split(", "))
        check_overrides("train", [*experiment, *task.split()])


def test_a_record_is_the_last_evaluation_of_a_run(records, tmp_path):
    from tables import scores

    trained = {"steps": 9, "best_step": 6, "seed": 4, "hardware": "x", "test/accuracy": 0.1}
    trained |= {"train/seconds": 120.0, "train/classes": 64, "train/class_hash": "abc"}
    interval = {"test/accuracy": 0.5, "test/ci95": 0.01, "test/class_ci95": [0.4, 0.6]}
    evaluated = {"run": "runs/x", "test/protocol": "5-way", "test/episodes": 2000, "test/classes": 20}
    (tmp_path / "metrics.json").write_text(json.dumps(trained))
    evaluated |= {"options": ["run=runs/x"], "date": "2020-01-01 00:00:00"}
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "a.json").write_text(json.dumps({**evaluated, **interval, "test/split_name": "ravi"}))
    scores.add(tmp_path, "some", "matching_omniglot", "omniglot_5w1s", "98.1")
    assert not {"run", "options", "date"} & records.read("some").keys()
    assert records.read("some")["train/seed"] == 4
    [row] = scores.rows("results")
    command = "`experiment=matching_omniglot`, `task=omniglot_5w1s`"
    expected = [command, "5-way; 2,000 episodes", "test, 20 (ravi)", "98.1", "50.00 ± 1.00", "40.0 to 60.0", "2 min, x"]
    assert row == expected
