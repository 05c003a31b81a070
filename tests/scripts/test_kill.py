"""Trainings that are killed at random moments end as others do."""

import dataclasses
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_weights(scripts):
    command = [sys.executable, str(scripts / "kill.py"), "--kills", "3", "--steps", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[-6:]]
    assert [row[-6] for row in rows] == ["3"] * 6  # kills
    assert all(row[-1] == row[-2] for row in rows)  # equal, of all runs


def test_what_is_not_the_same_is_named(scripts, tmp_path, monkeypatch):
    import json

    import kill
    import torch
    from safetensors.torch import save_file

    for name, value in (("whole", 1.0), ("same", 1.0), ("other", 2.0)):
        for file in kill.SAVED:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            weight = value if file == "last/optimizer.safetensors" else 0.0
            save_file({"weight": torch.full((2,), weight)}, tmp_path / name / file)
        scores = dict.fromkeys(["steps", "best_step", "val/accuracy", "test/episodes_hash"], 1)
        (tmp_path / name / "metrics.json").write_text(json.dumps(scores | {"test/accuracy": value}))
    (tmp_path / "other" / ".last-building").mkdir()
    assert kill.differences(tmp_path / "whole", tmp_path / "same") == []
    wanted = ["last/optimizer.safetensors", "test/accuracy", ".last-building was left"]
    assert kill.differences(tmp_path / "whole", tmp_path / "other") == wanted
    assert dataclasses.astuple(kill.Tally())[:-1] == (0,) * 6
