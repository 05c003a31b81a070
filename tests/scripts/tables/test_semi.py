"""The commands that make the table of semi-supervised learning, and what is kept of them."""

import importlib.util
import json
from pathlib import Path

import pytest

from episodic.config.compose import conf_dir
from episodic.config.overrides import check_overrides

SCRIPT = Path(__file__).parents[1] / "scripts" / "reproduce.py"


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORDS", tmp_path / "records")
    return module


@pytest.fixture
def commands(reproduce, monkeypatch):
    """What was run, each with scores that its run would leave."""
    ran = []

    def run(command, check):
        assert check
        name, options = command[2], command[3:]
        folder = Path(options[0].removeprefix("run="))
        folder.mkdir(parents=True, exist_ok=True)
        scores = {"test/accuracy": len(ran) / 100, "test/ci95": 0.01, "test/seconds": 3.0, "seed": 0, "hardware": "x"}
        if name == "episodic.train":
            check_overrides("train", options)
            (folder / "config.yaml").touch()
            scores |= {"steps": 2, "best_step": 1, "train/seconds": 9.0}
        file = "metrics.json" if name == "episodic.train" else "evaluation.json"
        (folder / file).write_text(json.dumps(scores))
        ran.append((name, options))

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    return ran


def test_every_cell_is_one_run_or_one_evaluation(reproduce, commands, tmp_path):
    reproduce.semi("semi_glyphs", tmp_path / "runs", 2, ["trainer.steps=2"])
    trained = [options for name, options in commands if name == "episodic.train"]
    scored = [options for name, options in commands if name == "episodic.evaluate"]
    assert len(trained) == 2 * (1 + 3 * 2)
    assert len(scored) == 2 * 2 * 2
    for options in trained:
        method, distractors, split = Path(options[0].removeprefix("run=")).name.rsplit("-", 2)
        assert {"experiment=semi_glyphs", "trainer.steps=2", f"seed={split}", f"task.labeled_seed={split}"} <= set(
            options
        )
        assert f"semi={method}" in options or method == "supervised"
        assert f"task.n_distractors={distractors}" in options or method == "supervised"
    record = json.loads((reproduce.RECORDS / "semi_glyphs.json").read_text())
    methods = ["supervised", "semi-supervised inference", "soft_kmeans", "soft_kmeans_cluster", "masked_soft_kmeans"]
    assert list(record) == methods
    assert all(set(of) == {"0", "5"} and set(of["0"]) == set(of["5"]) == {"0", "1"} for of in record.values())
    accuracies = [cell["test/accuracy"] for of in record.values() for by in of.values() for cell in by.values()]
    assert len(set(accuracies)) == len(accuracies), "each cell has scores of its own"
    assert "test/seconds" not in record["supervised"]["0"]["0"]


def test_what_has_ended_is_not_run_again_and_what_was_stopped_goes_on(reproduce, commands, tmp_path):
    ended, stopped = tmp_path / "ended", tmp_path / "stopped"
    for folder in (ended, stopped):
        folder.mkdir()
        (folder / "config.yaml").touch()
    (ended / "metrics.json").touch()
    reproduce.train(ended, "seed=1")
    assert commands == []
    reproduce.train(stopped, "seed=1")
    assert commands == [("episodic.train", [f"run={stopped}", "seed=1", "resume=true"])]


@pytest.fixture
def retrieved(reproduce, monkeypatch):
    """What was trained and scored, each run better on validation than the one before."""
    ran = []

    def run(command, check):
        name, options = command[2], command[3:]
        if name == "episodic.train":
            check_overrides("train", options)
        folder = Path(options[0].removeprefix("run="))
        folder.mkdir(parents=True, exist_ok=True)
        value = len(ran) / 1000
        scores = {f"{split}/{key}": value for split in ("val", "test") for key in ("accuracy", "recall@1", "map@r")}
        scores |= {"seed": 0, "hardware": "x", "steps": 2, "best_step": 1, "train/seconds": 9.0}
        (folder / ("metrics.json" if name == "episodic.train" else "evaluation.json")).write_text(json.dumps(scores))
        ran.append((name, folder.name, options[1:]))

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    return ran


def test_every_loss_is_trained_once_and_the_best_five_on_validation_with_further_seeds(reproduce, retrieved, tmp_path):
    losses = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml") if path.stem != "cross_entropy")
    assert sorted(reproduce.LOSSES) == losses
    reproduce.dml("dml_omniglot", tmp_path / "runs", 3, [])
    names = [name for _, name, _ in retrieved]
    assert names[: len(losses)] == [f"{loss}-0" for loss in reproduce.LOSSES]
    assert sorted(names[len(losses) :]) == sorted(f"{loss}-{seed}" for loss in reproduce.LOSSES[-5:] for seed in (1, 2))
    record = json.loads((reproduce.RECORDS.with_name("dml") / "dml_omniglot.json").read_text())
    assert [len(record[loss]) for loss in reproduce.LOSSES] == [1] * (len(losses) - 5) + [3] * 5
    assert all("test/recall@1" in scores for of in record.values() for scores in of.values())


def test_exchanges_and_pre_training_are_compared_with_what_goes_without(reproduce, retrieved, tmp_path):
    reproduce.sse(tmp_path / "runs", 2, [])
    scored = [(name, options) for kind, name, options in retrieved if kind == "episodic.evaluate"]
    assert len(scored) == 2 * 2 * 3
    for name, options in scored:
        loss, *_, seed = name.split("-")
        assert f"against={tmp_path / 'runs' / 'dml_omniglot' / f'{loss}-{seed}'}" in options
    retrieved.clear()
    reproduce.pretrained(tmp_path / "runs", [])
    trained = [name for kind, name, _ in retrieved if kind == "episodic.train"]
    assert trained == ["classifier-0", "protonet-scratch-0", "protonet-pretrained-0"]
    start = tmp_path / "runs" / "dml_miniimagenet" / "classifier-0"
    assert [f"init_from={start}" in options for kind, _, options in retrieved if kind == "episodic.train"] == [0, 0, 1]


def test_a_loss_is_cross_validated_with_as_many_repeats_as_asked_for(reproduce, tmp_path, monkeypatch):
    def run(command, check):
        assert check
        assert command[2] == "episodic.cross_validate"
        check_overrides("cross_validate", command[3:])
        assert {"repeats=2", "experiment=dml_omniglot", "trainer.steps=2"} <= set(command)
        folder = Path(command[3].removeprefix("run="))
        assert f"loss={folder.name}" in command
        folder.mkdir(parents=True)
        (folder / "cross_validation.json").write_text(json.dumps({"separated/recall@1": [0.5, len(folder.name)]}))

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    reproduce.folds(tmp_path / "runs", 2, ["trainer.steps=2"])
    record = json.loads((reproduce.RECORDS.with_name("dml") / "folds_omniglot.json").read_text())
    assert record == {"contrastive": {"separated/recall@1": [0.5, len("contrastive")]}}
