"""Several trainings by one command: where their runs lie, how they go on, and the table at the end."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from episodic.config.compose import ConfigError
from episodic.train import sweep as module
from episodic.train.sweep import Sweep, name_of, summary, sweep_table
from tests.command import run_command

TINY = [
    *(
        "task=folder_5w1s",
        "task.channels=1",
        "task.image_size=16",
        "task.n_way=3",
        "task.n_query=3",
        "task.train.n_way=3",
    ),
    *("task.train.n_query=3", "augment=none", "backbone.widths=[8,8]", "device=cpu", "precision=fp32"),
    *("trainer.validation_episodes=10", "episodes=20", "trainer.steps=4", "trainer.save_every=2"),
]
SWEPT = ["learner=prototypical,matching", "seed=0,1,2"]


@pytest.fixture
def place(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(pictures.with_name("cache")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(place, pictures, *arguments, code=0):
    ended, out, err = run_command("train", "-m", f"task.dataset.path={pictures}", *TINY, *arguments, cwd=place)
    assert ended == code, err + out
    return out + err


def go_on(place, *arguments, code=0):
    ended, out, err = run_command("train", "resume=true", *arguments, cwd=place)
    assert ended == code, err + out
    return out + err


def test_a_sweep_ends_with_a_table_over_seeds_and_goes_on_where_it_was_stopped(place, pictures, monkeypatch):
    out = started(place, pictures, *SWEPT, "run=whole")
    names = [f"learner={learner},seed={seed}" for learner in ("prototypical", "matching") for seed in range(3)]
    metrics = [json.loads((place / "whole" / name / "metrics.json").read_text()) for name in names]
    assert [m["seed"] for m in metrics] == [0, 1, 2, 0, 1, 2]
    found = json.loads((place / "whole" / "sweep.json").read_text())
    assert found["failed"] == {}
    for row, group in zip(found["rows"], (metrics[:3], metrics[3:]), strict=True):
        values = [m["test/accuracy"] for m in group]
        assert row["scores"]["test/accuracy"]["values"] == values
        shown = f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"
        (line,) = [line for line in out.splitlines() if line.startswith(row["options"] + " ")]
        assert line.split()[1] == "3"
        assert line.endswith(shown)
    assert "± is the standard deviation over seeds" in out

    steps = module.train

    def stopped(cfg, choices, options):
        if cfg.seed == 1 and cfg.learner._target_.endswith("Matching"):
            signal.raise_signal(signal.SIGTERM)  # before the first step: training ends at once
        return steps(cfg, choices, options)

    with monkeypatch.context() as patched:
        patched.setattr(module, "train", stopped)
        out = started(place, pictures, *SWEPT, "run=broken", code=143)
    assert out.endswith("The whole sweep: python -m episodic.train resume=true run=broken\n")
    assert not (place / "broken" / "sweep.json").exists()
    out = go_on(place, "run=broken")
    assert out.count("done before") == 4
    assert (place / "broken" / "sweep.json").read_bytes() == (place / "whole" / "sweep.json").read_bytes()
    again = go_on(place, "run=broken", "seed=0,1,2")
    assert again.count("done before") == 6
    told = go_on(place, "run=broken", "seed=0,1", code=2)
    assert "broken was started with other options, so it cannot be resumed: seed=0,1 is none of" in told
    assert "broken holds runs already: resume=true goes on" in started(place, pictures, *SWEPT, "run=broken", code=2)


def test_a_run_that_fails_leaves_the_others_alone_and_is_named(place, pictures):
    out = started(place, pictures, "optimizer.lr=0.01,1e30", code=1)
    (folder,) = (place / "runs" / "sweeps").iterdir()
    assert f"1 of 2 runs; their numbers are in {folder.relative_to(place)}/sweep.json" in out
    assert "failed: optimizer.lr=1e+30: the loss is nan at step" in out
    assert "± is half of the 95 % interval of a single run" in out
    assert list(json.loads((folder / "sweep.json").read_text())["failed"]) == ["optimizer.lr=1e+30"]
    assert go_on(place, code=1).count("done before") == 1  # without a folder it is the newest


def test_command_lines_that_sweep_over_nothing_or_by_mistake_are_refused(place, pictures):
    assert "trains a run for each value of an option that has several, and none has" in started(place, pictures, code=2)
    code, _, err = run_command("train", "seed=0,1", cwd=place)
    assert (code, err) == (
        2,
        "episodic.train: seed=0,1 has several values: add -m for a run of each, or write a list as [a,b]\n",
    )
    assert "unknown hydra/launcher=fast" in started(place, pictures, "seed=0,1", "hydra/launcher=fast", code=2)
    assert "unknown learner=protypical" in started(place, pictures, "learner=matching,protypical", code=2)
    assert not (place / "runs").exists()


def test_a_missing_plugin_and_torchrun_are_told(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"hydra/launcher=joblib needs a plugin of Hydra: pip install 'episodic\[sweeps\]'"
    ):
        Sweep().prepare(["-m", "seed=0,1", "hydra/launcher=joblib"])
    monkeypatch.setattr(module, "launched", lambda: True)
    with pytest.raises(ConfigError, match="-m trains one run after the other: start it by python, without torchrun"):
        Sweep().prepare(["-m", "seed=0,1"])


@pytest.mark.parametrize(
    "content", ["options: 3", "options: [seed=0]", "options: ['run=${oc.env:HOME}', 'seed=0,1']", "- a"]
)
def test_a_file_of_options_that_no_sweep_wrote_is_refused(content, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(ConfigError):
        Sweep().prepare(["resume=true", "run=."])


def test_what_counts_only_where_it_is_given_is_not_taken_from_a_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text("options: [allow_any_target=true, hydra/launcher=evil, 'seed=0,1']")
    with Sweep() as sweep:
        arguments = sweep.prepare(["resume=true", "run=."])
    assert "seed=0,1" in arguments
    assert not any("allow" in a or "launcher" in a for a in arguments)


def test_choices_inside_a_part_are_no_part_of_the_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with Sweep() as sweep:
        sweep.prepare(["-m", "loss=[cross_entropy,circle]", "loss.circle.distance=snr", "seed=0,1", "run=r"])
    assert sweep.names == ["seed=0", "seed=1"]


def test_names_are_those_of_files_and_differ():
    assert name_of(["seed=1", "run=x", "task.n_way=5"], fixed=["task.n_way"]) == "seed=1"
    paths = [
        name_of([f"init_from={path}"], []) for path in ("runs/a", "runs-a", "runs\\a", "../a", "a" * 300, "a" * 301)
    ]
    assert len(set(paths)) == len(paths)
    assert all("/" not in name and "\\" not in name and len(name) < 200 for name in paths)


def test_one_seed_has_the_interval_of_its_run():
    metrics = {"seed": 4, "test/accuracy": 0.5, "test/ci95": 0.02, "test/recall@1": 0.25, "test/recall@1_ci95": 0.01}
    (row,) = summary({"loss=circle,seed=4": metrics})
    assert row["options"] == "loss=circle"
    assert row["scores"]["test/accuracy"]["half_width"] == 0.02
    assert "loss=circle  1      50.00 ± 2.00     25.00 ± 1.00" in sweep_table([row])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_killed_sweep_ends_as_an_unbroken_one(place, pictures, launcher):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    side = {
        "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        "submitit_local": ["hydra/launcher=submitit_local"],
    }
    command = [sys.executable, "-m", "episodic.train", "-m", f"task.dataset.path={pictures}", *TINY, *SWEPT]
    subprocess.run([*command, "run=whole"], check=True, env=environment, capture_output=True)
    first = subprocess.Popen([*command, "run=broken"], env=environment, stdout=subprocess.DEVNULL)
    while not (place / "broken" / "learner=matching,seed=0" / "last").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    again = [sys.executable, "-m", "episodic.train", "resume=true", "run=broken", *side.get(launcher, [])]
    done = subprocess.run(again, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (place / "broken" / "sweep.json").read_bytes() == (place / "whole" / "sweep.json").read_bytes()
    if launcher == "joblib":
        assert "step " in (place / "broken" / "learner=matching,seed=2" / "log.txt").read_text()
