"""The table of results: its commands can be typed, and a record is the last evaluations of runs of one command."""

import json

import pytest

from episodic.config.overrides import check_overrides
from episodic.run.tensorboard import Curves

TRAINED = {"steps": 9, "best_step": 6, "hardware": "x", "test/accuracy": 0.1, "semi": "supervised", "backbone": "conv4"}
TRAINED |= {"train/seconds": 100.0, "train/images": 2e6, "pretrain/seconds": 20.0, "train/classes": 64}
TRAINED |= {"train/class_hash": "abc", "task": "omniglot_5w1s", "learner": "matching"}
SCORED = {"run": "runs/x", "date": "2020-01-01 00:00:00", "test/protocol": "5-way", "test/episodes": 2000}
SCORED |= {"test/classes": 20, "test/split_name": "vinyals", "test/ci95": 0.01, "test/class_ci95": [0.4, 0.6]}


def made(folder, seed=0, accuracy=0.5, learner="matching", evaluate=()):
    """What a run leaves."""
    (folder / "evaluations").mkdir(parents=True)
    options = [f"learner={learner}", f"run={folder}", f"seed={seed}", "data_dir=/x"]
    (folder / "config.yaml").write_text(json.dumps({"options": options}))
    (folder / "metrics.json").write_text(json.dumps(TRAINED | {"seed": seed}))
    scored = SCORED | {"test/accuracy": accuracy}
    scored["options"] = [f"run={folder}", "audit=true", "transform=saved", "episodes=2000", *evaluate]
    (folder / "evaluations" / "a.json").write_text(json.dumps(scored))
    return folder


def test_the_commands_of_the_rows_can_be_typed():
    from tables import records

    found = [json.loads(path.read_text()) for path in records.RESULTS.glob("*.json")]
    assert len(found) >= 10
    for record in found:
        trained = [o for o in record["train_options"] if record["evaluate_options"] == [] or not o.startswith("task=")]
        check_overrides("train", [*trained, *record["evaluate_options"]])


def test_a_record_is_the_last_evaluation_of_its_runs(records, tmp_path):
    from tables import scores

    runs = [made(tmp_path / f"run{seed}", seed, accuracy) for seed, accuracy in ((4, 0.5), (5, 0.54))]
    scores.add("some", runs)
    record = records.read("some")
    assert not {"run", "options", "date"} & record.keys()
    assert (record["train_options"], record["evaluate_options"], record["train/seed"]) == (["learner=matching"], [], 4)
    assert record["seeds"] == {"4": 0.5, "5": 0.54}
    [row] = scores.rows("results")
    first = ["`train learner=matching`", "5-way; 2,000 episodes", "test, 20 (vinyals)", "98.1", "50.00 ± 1.00"]
    assert row == [*first, "40.0 to 60.0", "52.00 ± 2.83 (2)", "2.00 M images, 2 min, x"]


def test_runs_of_different_commands_are_no_record(records, tmp_path):
    from tables import scores

    runs = [made(tmp_path / "a"), made(tmp_path / "b", seed=1, learner="relation")]
    with pytest.raises(ValueError, match="b is of another command than"):
        scores.add("some", runs)
    assert records.read("some") == {}


def test_a_curve_has_minutes_images_and_accuracy_of_all_stages(tmp_path):
    from tables import scores

    def stage(folder, points, **trained):
        folder.mkdir()
        curves = Curves(folder, 0, None)
        for step, accuracy in points:
            curves.validation(step, accuracy, 0.01)
        curves.close()
        (folder / "metrics.json").write_text(json.dumps(trained))

    run = tmp_path / "run"
    before = {"pretrain/seconds": 60.0, "pretrain/images": 1000}
    stage(run, [(5, 0.5), (10, 0.6)], steps=10, **{"train/seconds": 120.0, "train/images": 400} | before)
    stage(run / "pretrain", [(2, 0.25)], steps=2, **{"train/seconds": 60.0, "train/images": 1000})
    assert scores.curve(run) == [[(1.0, 1000, 0.25)], [(2.0, 1200, 0.5), (3.0, 1400, 0.6)]]


@pytest.mark.parametrize(
    ("evaluate", "paper"),
    [
        ([], "98.1"),
        (["task=omniglot_20w1s"], "93.8"),
        (["task=glyphs_5w1s"], "–"),
        (["learner.full_context=true"], "–"),
    ],
)
def test_the_papers_figure_is_that_of_what_was_scored(evaluate, paper):
    from tables import scores

    assert scores.paper(TRAINED, evaluate) == paper
    assert scores.paper(TRAINED | {"semi": "mean_teacher"}, evaluate) == "–"


def test_records_of_another_folder_stand_in_the_table_with_their_command(records, tmp_path, monkeypatch):
    from tables import scores

    scores.add("ours", [made(tmp_path / "a")])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    theirs = records.read("ours") | {"evaluate_options": ["task=omniglot_20w1s"]}
    (elsewhere / "a_first.json").write_text(json.dumps(theirs))
    monkeypatch.setattr(records, "further", [elsewhere])
    commands = [row[0] for row in scores.rows("results")]
    assert commands == ["`train learner=matching`, `evaluate task=omniglot_20w1s`", "`train learner=matching`"]


def test_a_record_is_made_again_by_its_command(records, tmp_path, monkeypatch, capsys):
    from tables import scores

    scores.add("some", [made(tmp_path / "a", accuracy=0.5, evaluate=["task=omniglot_20w1s"])])
    commands = []

    def run(command, check):
        name, options = command[2], command[3:]
        commands.append((name, options[1:]))
        folder = tmp_path / "runs" / "some" / options[0].rpartition("/")[2]
        if name == "episodic.train":
            made(folder, int(folder.name), 0.6 + int(folder.name) / 10, evaluate=["task=omniglot_20w1s"])

    monkeypatch.setattr(records.subprocess, "run", run)
    scores.reproduce("some", tmp_path / "runs", 2, ["device=cpu"])
    assert commands == [
        ("episodic.train", ["learner=matching", "seed=0", "device=cpu"]),
        ("episodic.evaluate", ["task=omniglot_20w1s", "episodes=10000"]),
        ("episodic.train", ["learner=matching", "seed=1", "device=cpu"]),
        ("episodic.evaluate", ["task=omniglot_20w1s", "episodes=10000"]),
    ]
    assert records.read("some")["seeds"] == {"0": 0.6, "1": 0.7}
    assert "some: 65.00 %, mean of 2 seeds; the record had 50.00 %" in capsys.readouterr().out
