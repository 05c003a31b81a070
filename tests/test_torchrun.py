"""Commands that torchrun starts several times: they train, score, stop and resume as one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from episodic.run.run import Run

SMALL = [
    *("task.image_size=16", "task.dataset.drawings=8", "backbone.widths=[8,8]", "task.n_query=3", "device=cpu"),
    *("precision=fp32", "optimizer=sgd", "optimizer.lr=0.001", "task.train.n_way=5", "task.train.n_query=3"),
    *("trainer.episodes_per_step=4", "trainer.validation_episodes=20", "episodes=40"),
]


def torchrun(count, *arguments):
    """The command for `count` processes; for one, that without torchrun."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [sys.executable, *(several if count > 1 else []), "-m", *arguments]


def run(count, *arguments, cwd):
    """`(exit code, stdout, stderr)`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        torchrun(count, *arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


def ranks_of(command):
    """The processes that torchrun started, in the order of their ranks."""
    found = subprocess.check_output(["pgrep", "-P", str(command.pid), "-f", "episodic.train"], text=True)
    return sorted(map(int, found.split()))


def farthest(one, other):
    weights = [load_file(folder / "last" / "model.safetensors") for folder in (one, other)]
    return max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])


@pytest.mark.slow
def test_two_processes_train_one_run_and_score_it_as_one_process_does(tmp_path):
    code, out, err = run(2, "episodic.train", *SMALL, "trainer.steps=3", "run=r", cwd=tmp_path)
    assert code == 0, err
    assert out.count("best of step 3") == 1  # one of them prints
    assert "2 processes; r" in out
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["hardware"].endswith("fp32, 2 processes")
    assert metrics["sync_batch_norm"] is True
    assert len(list((tmp_path / "r").glob("events.out.tfevents*"))) == 1
    options = ["run=r", "retrieval=true", "clustering=true", "split=all", "episodes=40"]
    found = []
    for count in (1, 2):
        code, out, err = run(count, "episodic.evaluate", *options, cwd=tmp_path)
        assert code == 0, err
        record = json.loads(Run(tmp_path / "r").evaluations()[-1].read_text())
        found.append(
            {k: v for k, v in record.items() if not k.endswith("seconds") and k not in ("hardware", "versions", "date")}
        )
    assert found[0] == found[1]


def test_an_error_is_told_once_and_by_name(tmp_path):
    for name, options, expected in (
        (
            "train",
            [*SMALL, "trainer.episodes_per_step=1"],
            "2 processes share the batch of a step, and it has 1 episodes",
        ),
        ("report", ["run=r"], "it works in one process: start it by python, without torchrun"),
    ):
        code, _, err = run(2, f"episodic.{name}", *options, cwd=tmp_path)
        assert code
        told = [line for line in err.splitlines() if line.startswith(f"episodic.{name}:")]
        assert len(told) == 1, err
        assert expected in told[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_all_and_any_number_of_them_goes_on_to_the_same_weights(lost, tmp_path):
    # Small steps, since training magnifies roundings: of one process too, where its memory layout or threads are others.
    options = [*SMALL, "optimizer.lr=0.0001", "trainer.steps=40", "trainer.save_every=2", "trainer.validate_every=40"]
    code, _, err = run(2, "episodic.train", *options, "run=whole", cwd=tmp_path)
    assert code == 0, err
    for count in (1, 2, 4):
        place = tmp_path / f"by {count}"
        command = torchrun(2, "episodic.train", *options, f"run={place.name}")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        first = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        while not (place / "last" / "SHA256SUMS").exists():
            assert first.poll() is None
            time.sleep(0.01)
        os.kill(ranks_of(first)[lost], signal.SIGKILL)
        told = [line for line in first.communicate(timeout=600)[1].splitlines() if line.startswith("episodic.train:")]
        assert len(told) == 1, told
        assert "another process of this command has ended. Training stopped in step" in told[0]
        assert f"torchrun --nproc-per-node 2 -m episodic.train resume=true run='{place.name}'" in told[0]
        code, out, err = run(count, "episodic.train", "resume=true", f"run={place.name}", cwd=tmp_path)
        assert code == 0, err
        assert "from step" in out
        # One process with two threads is 2e-3 away from one with one thread here.
        assert farthest(tmp_path / "whole", place) <= (0 if count == 2 else 5e-3)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    options = [*SMALL, "trainer.steps=100000", "trainer.save_every=20", "run=r"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = torchrun(2, "episodic.train", *options)
    first = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while not (tmp_path / "r" / "last" / "SHA256SUMS").exists():
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(ranks_of(first)[1], signal.SIGTERM)
    out = first.communicate(timeout=600)[0]
    assert out.count("Stopped at step") == 1
    step = json.loads((tmp_path / "r" / "last" / "state.json").read_text())["step"]
    assert f"Stopped at step {step}, saved in r; resume with: torchrun" in out
