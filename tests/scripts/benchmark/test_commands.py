"""The rows commands of the benchmark: the plain loop answers as ours does."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from episodic.assemble.predictor import Predictor
from tests.test_benchmark_growth import files, scripts  # noqa: F401  fixtures


def args(root):
    return argparse.Namespace(data_dir=str(root), repeats=1, peer_episodes=2)


def test_the_plain_loop_gives_our_answers(files, tmp_path):  # noqa: F811
    import benchmark_commands as commands
    import plain_torch

    weights = commands.untrained_run(tmp_path / "run", str(files))
    random = np.random.default_rng(0)
    for name in ("shots/a", "shots/b", "photos"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(256, size=(50, 60, 3), dtype=np.uint8) // (1 + 3 * (name == "shots/b"))
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    with torch.inference_mode():
        theirs = plain_torch.predict(weights, str(tmp_path / "shots"), str(tmp_path / "photos"))
    shots = sorted((tmp_path / "shots").rglob("*.png"))
    ours = Predictor(str(tmp_path / "run"), learner="prototypical", device="cpu")
    ours.fit(shots, [file.parent.name for file in shots])
    answers = ours.answers(sorted((tmp_path / "photos").iterdir()))
    assert [label for _, label, _ in theirs] == [answer.label for answer in answers]
    assert [p for _, _, p in theirs] == pytest.approx([answer.probability for answer in answers], rel=1e-3)


@pytest.mark.slow
def test_each_command_is_measured_beside_the_plain_loop(files, monkeypatch):  # noqa: F811
    import benchmark_commands as commands

    monkeypatch.setattr(commands, "REPORTED", 20)
    entries, text = commands.commands(args(files))
    assert [entry["row"] for entry in entries] == ["commands, predict, 100 pictures", "commands, report, 20 episodes"]
    for entry in entries:
        assert entry["ratio"] == pytest.approx(entry["peer"] / entry["ours"])
        assert min(entry["ours"], entry["peer"]) > entry["import_torch_s"] > 0
    assert "plain torch loop" in text


def test_other_answers_than_the_loops_are_refused(files, tmp_path, monkeypatch):  # noqa: F811
    import benchmark_commands as commands

    def process(*arguments):
        [out] = [a.removeprefix("out=") for a in arguments if a.startswith("out=")] or [None]
        if out is None:
            return 1.0, '[["1.jpg", "b", 0.5]]'
        (tmp_path / "answers.json").write_text('[{"file": "photos/1.jpg", "class": "a"}]')
        return 1.0, ""

    monkeypatch.setattr(commands, "process", process)
    with pytest.raises(SystemExit, match=r"commands, predict: .* differ"):
        commands.predicting(tmp_path, "weights", args(files))
