"""Runs are made once, and what is kept of them is little."""

import json


def test_what_has_ended_is_not_run_again_and_what_was_stopped_goes_on(records, commands, tmp_path):
    ended, stopped = tmp_path / "ended", tmp_path / "stopped"
    for folder in (ended, stopped):
        folder.mkdir()
        (folder / "config.yaml").touch()
    (ended / "metrics.json").touch()
    records.train(ended, "seed=1")
    assert commands == []
    records.train(stopped, "seed=1")
    assert commands == [("episodic.train", [f"run={stopped}", "seed=1", "resume=true"])]


def test_a_record_keeps_scores_at_their_place_beside_what_it_had(records, tmp_path):
    scored = {"val/accuracy": 0.5, "val/recall@1": 0.2, "val/seconds": 3.0, "train/accuracy": 1.0}
    (tmp_path / "metrics.json").write_text(json.dumps({"steps": 7, "learner": "x"}))
    (tmp_path / "scores.json").write_text(json.dumps(scored))
    records.write("dml/some", {"circle": {"0": {"val/accuracy": 0.4}}})
    records.keep("dml/some", "circle", 1, run=tmp_path, scores=tmp_path / "scores.json")
    kept = {"steps": 7, "val/accuracy": 0.5, "val/recall@1": 0.2}
    assert records.read("dml/some") == {"circle": {"0": {"val/accuracy": 0.4}, "1": kept}}
    assert records.read("dml/other") == {}


def test_a_spread_is_told_where_there_are_several_seeds(records):
    assert records.over_seeds([0.5]) == "50.00"
    assert records.over_seeds([0.4, 0.5, 0.6]) == "50.00 ± 10.00"
