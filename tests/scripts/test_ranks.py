"""Several processes train and score as one."""

import json
import subprocess
import sys

import pytest

from episodic.config.compose import conf_dir

# One of each kind: what is averaged, gathered, drawn for all, normalized apart, or decided by the first process.
FEW = [
    "prototypical",
    "cross_attention sse",
    "attention_attractor",
    "mean_teacher",
    "pseudo_labels",
    "loss schem",
    "losses of episodes",
    "memory",
]


def options(group):
    return [path.stem for path in (conf_dir() / group).glob("[!_]*.yaml")]


def held(scripts, *arguments):
    """What the script prints, in a process of its own, which starts others before it has computed anything."""
    command = [sys.executable, str(scripts / "ranks.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_learner_wrapper_and_loss_is_a_case(scripts):
    import ranks

    names = {*options("learner"), *options("semi"), *options("loss")}
    assert {name.removeprefix("loss ") for name in ranks.cases()} >= names
    assert ranks.SMALL.keys() <= names
    chosen = {option for given in ranks.cases().values() for option in given}
    assert chosen >= {
        f"trainer={name}"
        for name in options("trainer")
        if name not in ("episodes", "finetune", "long", "pseudo_labels")
    }


def test_two_processes_are_as_one(scripts, tmp_path):
    printed = held(scripts, "--processes", "2", "--out", str(tmp_path / "found.json"), "--only", *FEW)
    assert f"{len(FEW)} cases within 0.0001" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert min(values["moved"] for values in found.values()) > 5e-4, found  # or there would be nothing to differ in


@pytest.mark.slow
def test_two_and_four_processes_are_as_one_in_every_case(scripts):
    import ranks

    assert f"{len(ranks.cases())} cases within 0.0001" in held(scripts, "--processes", "2", "4")


@pytest.mark.slow
def test_what_differs_is_named(scripts, tmp_path):
    import ranks
    import torch

    state = {"moved": 0.5, "after": {"weight": torch.ones(2)}, "same": True}
    torch.save(state, tmp_path / "1-case.pt")
    torch.save(state | {"after": {"weight": torch.tensor([1.0, 1.25])}, "same": False}, tmp_path / "2-case.pt")
    found = ranks.compared(tmp_path, "case", [2])
    assert found == {"moved": 0.5, "difference by 2": 0.25, "equal scores by 2": False}
    assert ranks.beyond({"case": found}, [2]) == ["case"]
    assert ranks.beyond({"case": found | {"difference by 2": 0.0}}, [2]) == ["case"]  # its scores differ
