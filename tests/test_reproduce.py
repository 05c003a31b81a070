"""The commands that make the table of semi-supervised learning, and what is kept of them."""

import importlib.util
import json
from pathlib import Path

import pytest

from episodic.config import check_overrides

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
