"""Tables are made without training: what is run is noted, and leaves made-up scores."""

import json
from pathlib import Path

import pytest

from episodic.config.overrides import check_overrides


@pytest.fixture
def records(tmp_path, monkeypatch):
    """The records of the tables, in a folder of the test's own."""
    from tables import records

    monkeypatch.setattr(records, "RESULTS", tmp_path / "records")
    return records


@pytest.fixture
def commands(records, monkeypatch):
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
        file = folder / ("metrics.json" if name == "episodic.train" else "evaluations/a.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(scores))
        ran.append((name, options))

    monkeypatch.setattr(records.subprocess, "run", run)
    return ran


@pytest.fixture
def retrieved(records, monkeypatch):
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
        file = folder / ("metrics.json" if name == "episodic.train" else "evaluations/a.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(scores))
        ran.append((name, folder.name, options[1:]))

    monkeypatch.setattr(records.subprocess, "run", run)
    return ran
