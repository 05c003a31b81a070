"""The rows of commands: the plain loop answers as ours does."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from episodic.assemble.predictor import Predictor


def args(root):
    return argparse.Namespace(data_dir=str(root), repeats=1, peer_episodes=2)


def test_the_plain_loop_gives_our_answers(files, tmp_path):
    from benchmark import commands, plain_torch

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
    one = ("learner.temperature=1",)
    ours = Predictor(str(tmp_path / "run"), learner="prototypical", options=one, device="cpu")
    ours.fit(shots, [file.parent.name for file in shots])
    answers = ours.answers(sorted((tmp_path / "photos").iterdir()))
    assert [label for _, label, _ in theirs] == [answer.label for answer in answers]
    assert [p for _, _, p in theirs] == pytest.approx([answer.probability for answer in answers], rel=1e-3)


@pytest.mark.slow
def test_each_command_is_measured_beside_the_plain_loop(files, monkeypatch):
    from benchmark import commands

    process = commands.process
    seconds = {"-c": 1.0, "episodic.predict": 3.0, "predict": 6.0, "episodic.report": 4.0, "1": 5.0, "2": 7.0}

    def clocked(*arguments):
        """The process itself, with the seconds of the first or last word that has some."""
        [found] = [seconds[word] for word in (*arguments[:2], arguments[-1]) if word in seconds][:1]
        return found, process(*arguments)[1]

    monkeypatch.setattr(commands, "REPORTED", 20)
    monkeypatch.setattr(commands, "process", clocked)
    entries, text = commands.commands(args(files))
    assert [entry["row"] for entry in entries] == ["commands, predict, 100 pictures", "commands, report, 20 episodes"]
    # The loop takes 5 seconds for an episode and 2 for each further one.
    assert [(entry["ours"], entry["peer"]) for entry in entries] == [(3, 6), (4, 5 + 2 * 19)]
    for entry in entries:
        assert entry["ratio"] == pytest.approx(entry["peer"] / entry["ours"])
        assert entry["import_torch_s"] == 1
    assert "plain torch loop" in text


def test_a_process_is_timed_from_start_to_end_and_told_what_it_printed(monkeypatch):
    from benchmark import commands

    moments = iter([10.0, 12.5])
    monkeypatch.setattr(commands.time, "perf_counter", lambda: next(moments))
    assert commands.process("-c", "print(7)") == (2.5, "7\n")


def test_other_answers_than_the_loops_are_refused(files, tmp_path, monkeypatch):
    from benchmark import commands

    def process(*arguments):
        [out] = [a.removeprefix("out=") for a in arguments if a.startswith("out=")] or [None]
        if out is None:
            return 1.0, '[["1.jpg", "b", 0.5]]'
        (tmp_path / "answers.json").write_text('[{"file": "photos/1.jpg", "class": "a"}]')
        return 1.0, ""

    monkeypatch.setattr(commands, "process", process)
    with pytest.raises(SystemExit, match=r"commands, predict: .* differ"):
        commands.predicting(tmp_path, "weights", args(files))
