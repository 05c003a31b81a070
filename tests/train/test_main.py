"""The command line end to end, on a few tiny pictures: train, evaluate, compare, stop, resume, and what goes wrong."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from episodic.run.run import Run
from tests.command import run_command

SMALL = [
    *(
        "task=folder_5w1s",
        "task.channels=1",
        "task.image_size=16",
        "task.n_way=3",
        "task.n_query=3",
        "task.train.n_way=3",
    ),
    *("task.train.n_query=3", "augment=none", "backbone.widths=[8,8,8,8]", "device=cpu", "precision=fp32"),
    *("trainer.validate_every=10", "trainer.save_every=5", "trainer.validation_episodes=20", "episodes=40"),
]


@pytest.fixture(scope="module")
def place(pictures):
    """The folder where the commands run, with `pictures` in it."""
    return pictures.parent


def environment(place):
    return {**os.environ, "EPISODIC_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}


def command(place, name, *arguments):
    data = [f"task.dataset.path={place / 'pictures'}", *SMALL] if name != "evaluate" else []
    if any(
        a.startswith(("trainer=", "semi=pseudo")) for a in arguments
    ):  # batches read nothing of the training episodes' shape
        data = [a for a in data if not a.startswith("task.train.")]
    flags = [a for a in arguments if a.startswith("-")]  # Hydra wants them before the options
    return [sys.executable, "-m", f"episodic.{name}", *flags, *data, *(a for a in arguments if a not in flags)]


def run(place, name, *arguments, code=0):
    """What a command prints, run in this process."""
    _, _, _, *words = command(place, name, *arguments)
    ended, out, err = run_command(name, *words, cwd=place, environment={"EPISODIC_CACHE": str(place / "cache")})
    assert ended == code, err + out
    return out if code == 0 else out + err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run=real", "trainer.steps=2"], 0, "3-way 1-shot, 3 queries a class, inductive; best of step 2"),
        (["episodes=abc"], 2, "episodes must be an integer, got 'abc'"),
        (["trainer.steps=many"], 2, "trainer.steps must be an integer, got 'many'"),
    ],
)
def test_the_command_is_a_module_that_runs(place, arguments, code, said):
    """Real processes, as a user starts them, without the types that pytest checks."""
    done = subprocess.run(
        command(place, "train", *arguments),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(place),
        cwd=place,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def trained(place):
    """An undisturbed run of 20 steps."""
    return run(place, "train", "run=whole", "trainer.steps=20"), place / "whole"


def test_training_leaves_what_the_design_says(trained):
    output, folder = trained
    assert "3-way 1-shot, 3 queries a class, inductive; best of step" in output
    metrics = json.loads((folder / "metrics.json").read_text())
    for key in ("accuracy", "ci95", "episodes", "protocol", "episodes_hash", "class_hash", "split_name"):
        assert f"test/{key}" in metrics
    assert metrics["test/episodes"] == 40
    assert torch.__version__.startswith(metrics["versions"]["torch"])
    assert f"{100 * metrics['test/accuracy']:.2f} ±" in output
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "metrics.json", "last", "best"}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [e.step for e in events.Scalars("val/accuracy")] == [10, 20]
    assert len(events.Tags()["images"]) == 1
    picture = Image.open(__import__("io").BytesIO(events.Images(events.Tags()["images"][0])[0].encoded_image_string))
    assert picture.size == ((16 + 4) + (3 * 16 + 4), 3 * 17)


def test_evaluate_gives_the_same_figure_and_a_paired_comparison(place, trained):
    metrics = json.loads((trained[1] / "metrics.json").read_text())
    output = run(place, "evaluate", "run=whole", "episodes=40", "against=whole", "audit=true", "split=all")
    again = json.loads(Run(trained[1]).evaluations()[-1].read_text())
    for key in ("test/accuracy", "test/ci95", "test/episodes_hash", "val/accuracy"):
        assert again[key] == metrics[key], key
    assert again["test/difference"] == again["test/difference_ci95"] == 0
    assert "Audit: inductive" in output
    header = output.splitlines()[2]
    assert header.startswith("data")
    assert [line.find("accuracy %") for line in (header,)] == [header.find("accuracy %")]


def test_evaluate_takes_another_shape_and_a_manifest(place, trained):
    run(place, "evaluate", "run=whole", "episodes=30", "task.n_way=2", "task.n_shot=2", "save_episodes=list.jsonl")
    first = json.loads(Run(trained[1]).evaluations()[-1].read_text())
    assert first["test/protocol"].startswith("2-way 2-shot")
    run(place, "evaluate", "run=whole", "episodes=list.jsonl", "task.n_way=2", "task.n_shot=2")
    second = json.loads(Run(trained[1]).evaluations()[-1].read_text())
    assert second["test/accuracy"] == first["test/accuracy"]
    assert second["test/episodes_hash"] == first["test/episodes_hash"]


def test_evaluate_can_change_the_settings_of_the_learner(place, trained):
    output = run(place, "evaluate", "run=whole", "against=whole", "episodes=30", "learner.temperature=2.0")
    scored = json.loads(Run(trained[1]).evaluations()[-1].read_text())
    assert scored["learner"] == {
        "_target_": "episodic.learners.prototypical.Prototypical",
        "temperature": 2.0,
        "distance": {"_target_": "episodic.core.distances.squared_euclidean.SquaredEuclidean"},
    }
    assert scored["test/difference_ci95"] == 0  # the order of the logits is the same
    assert "difference" in output
    output = run(place, "evaluate", "run=whole", "learner.candidates=0.4", code=2)
    assert "unknown option 'learner.candidates'" in output


def resumed(place, *options):
    """What a training prints that goes on with a run, and needs to be told no more than that."""
    code, out, err = run_command(
        "train", "resume=true", *options, cwd=place, environment={"EPISODIC_CACHE": str(place / "cache")}
    )
    assert code == 0, err + out
    return out


def equal_weights(a: Path, b: Path) -> None:
    for name in ("model", "trainer", "optimizer"):
        ours, theirs = load_file(a / "last" / f"{name}.safetensors"), load_file(b / "last" / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), key


def step_of(run: Path) -> int:
    return json.loads((run / "last" / "state.json").read_text())["step"]


def start_and_wait_for_step(place, folder, step):
    """A training of many steps, running, past its checkpoint of `step`."""
    process = subprocess.Popen(
        command(place, "train", f"run={folder.name}", "trainer.steps=100000"), env=environment(place), cwd=place,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # not yet there, or taking the place of the one before
            if step_of(folder) >= step:
                return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


def test_killed_and_resumed_equals_undisturbed(place):
    process = start_and_wait_for_step(place, place / "killed", 5)
    process.kill()
    process.communicate()
    reached = step_of(place / "killed")
    steps = f"trainer.steps={reached + 12}"
    output = resumed(place, "run=killed", steps)
    assert f"; from step {reached}" in output
    run(place, "train", "run=undisturbed", steps)
    equal_weights(place / "killed", place / "undisturbed")
    killed, whole = (json.loads((place / r / "metrics.json").read_text()) for r in ("killed", "undisturbed"))
    assert killed["test/accuracy"] == whole["test/accuracy"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_says_how_to_resume(place, number, code):
    folder = place / f"stopped{code}"
    process = start_and_wait_for_step(place, folder, 5)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    step = step_of(folder)
    assert f"Stopped at step {step}, saved in {folder.name}" in output
    assert f"resume with: python -m episodic.train resume=true run={folder.name}" in output
    assert "Traceback" not in errors


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(place, trained):
    assert "holds a run already: resume=true" in run(place, "train", "run=whole", "trainer.steps=20", code=2)
    output = run(place, "train", "run=whole", "trainer.steps=20", "resume=true", "optimizer.lr=0.5", code=2)
    assert "other settings, so it cannot be resumed: optimizer.lr was 0.001, now 0.5" in output


def test_a_second_training_in_a_folder_is_told_of_the_first(place):
    """Real processes: the first goes on, and is stopped in the end."""
    first = start_and_wait_for_step(place, place / "taken", 5)
    try:
        for options in (["resume=true", "run=taken"], ["run=taken", *SMALL, f"task.dataset.path={place / 'pictures'}"]):
            environment = {"EPISODIC_CACHE": str(place / "cache")}
            code, _, said = run_command("train", *options, cwd=place, environment=environment)
            assert code == 2
            assert said.startswith(f"episodic.train: taken is in use: process {first.pid} on ")
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert "from step" in resumed(place, "run=taken", f"trainer.steps={step_of(place / 'taken') + 1}")


def test_resuming_a_finished_run_trains_no_further(place, trained):
    before = load_file(trained[1] / "last" / "model.safetensors")
    assert "all 20 steps are done, scored again" in resumed(place, "run=whole")
    after = load_file(trained[1] / "last" / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task.train.n_way=40"], "an episode needs 40 classes"),
        (["task.n_shot=7"], "classes have too few items for an episode, which takes 10 of a class"),
        (["device=cuda:9"], "device=cuda:9 is not on this machine"),
        (["device=gpu"], "device must be auto, cpu, cuda"),
        (["precision=fp8"], "precision must be auto, fp32 or bf16"),
        (["task.n_way=five"], "task.n_way must be an integer or a list of 2 integers, got 'five'"),
        (["task.within_super_class=true"], "pictures has no super-classes"),
        (["backbone.image_size=84"], "built for images"),
        (["task.dataset.image_size=84"], "task.dataset.image_size=84, but the task has 16: set task.image_size alone"),
        (["task.dataset.channels=3"], "task.dataset.channels=3, but the task has 1: set task.channels alone"),
        (["task.dataset.path=nowhere"], "nowhere is no folder"),
        (["task.dataset.path=???"], "task.dataset.path must be given"),
        (["task.n_way=5", "run=not_begun"], "an episode needs 5 classes .* the labels have 4"),
        (["learner._target_=os.system"], "wants to build os.system, which is no learner of this package"),
        (["optimizer.lr=1e30", "trainer.steps=40"], "the loss is .* at step .*The last good checkpoint is step"),
    ],
)
def test_bad_input_is_answered_without_a_traceback(place, arguments, message):
    import re

    output = run(place, "train", *arguments, code=2)
    assert re.search(message, output, re.DOTALL), output
    assert "Traceback" not in output
    assert not (place / "not_begun").exists(), "what cannot be scored at the end should not begin"


def test_a_truncated_checkpoint_falls_back_and_a_foreign_one_is_refused(place, trained):
    import shutil

    shutil.copytree(trained[1], place / "damaged")
    for kind in ("best", "best-previous"):
        if (place / "damaged" / kind).exists():
            path = place / "damaged" / kind / "model.safetensors"
            path.write_bytes(path.read_bytes()[:1000])
    assert "model.safetensors is damaged or truncated (1,000 bytes" in run(place, "evaluate", "run=damaged", code=2)
    config = place / "damaged" / "config.yaml"
    config.write_text(config.read_text().replace("- 8\n  - 8\n  - 8\n  - 8", "- 8\n  - 8\n  - 8\n  - 9"))
    shutil.rmtree(place / "damaged" / "best")
    shutil.copytree(trained[1] / "best", place / "damaged" / "best")
    assert "was made for another model" in run(place, "evaluate", "run=damaged", code=2)


def test_a_corrupt_picture_is_named_or_skipped(place):
    import shutil

    shutil.copytree(place / "pictures", place / "broken")
    picture = place / "broken" / "class03" / "2.png"
    picture.write_bytes(picture.read_bytes()[:40])
    where = [f"task.dataset.path={place / 'broken'}", "trainer.steps=10"]
    output = run(place, "train", *where, code=2)
    assert "1 of 128 images cannot be read" in output
    assert "class03/2.png" in output
    assert run(place, "train", *where, "run=skipping", "task.dataset.corrupt=skip")


def test_incremental_learning_in_two_stages(place):
    task = ["task.base_way=4", "task.base_query=1", "task.held_out=0.5", "task.train.n_query=2", "trainer.steps=10"]
    assert "goes on from trained weights" in run(place, "train", "learner=attention_attractor", *task, code=2)
    run(place, "train", "learner=base_classifier", "run=base", *task)
    output = run(place, "train", "learner=attention_attractor", "init_from=base", "run=attractor", *task)
    assert "tensors from base" in output
    assert "queries of 4 base classes, inductive" in output
    metrics = json.loads((place / "attractor" / "metrics.json").read_text())
    assert metrics["test/base_classes"] == 16
    assert metrics["test/delta_ci95"] > 0
    assert f"pictures test  delta novel      {100 * metrics['test/delta_novel']:.2f} ±" in output
    compared = run(place, "evaluate", "run=attractor", "against=base", "episodes=40", "audit=true")
    assert "  difference   base alone" in compared
    assert "Audit: inductive" in compared
    assert "cannot hold incremental" in run(place, "evaluate", "run=attractor", "save_episodes=x.jsonl", code=2)


DML = [
    *("trainer=dml", "trainer.classes_per_batch=5", "trainer.images_per_class=3", "loss=[multi_similarity,proxy_nca]"),
    *("memory=xbm", "memory.start=2", "memory.size=40", "sse=se", "sse.probability=0.3"),
]


def test_metric_learning_reports_retrieval_and_gives_its_backbone_to_episodes(place):
    output = run(place, "train", "run=dml", "trainer.steps=10", *DML)
    assert "prototypical on conv4" in output
    assert "supervised, multi_similarity+proxy_nca" in output
    metrics = json.loads((place / "dml" / "metrics.json").read_text())
    assert metrics["loss"] == "multi_similarity+proxy_nca"
    assert metrics["train/batches_per_second"] > 0
    assert metrics["test/queries"] == 8 * metrics["test/classes"]
    assert 0 < metrics["test/map@r"] <= metrics["test/r_precision"] <= 1
    shown = f"{100 * metrics['test/recall@1']:.2f} ± {100 * metrics['test/recall@1_ci95']:.2f}"
    assert shown in output
    again = run(place, "evaluate", "run=dml", "retrieval=true", "clustering=true", "episodes=40")
    assert shown in again
    assert "density (intra / inter)" in again
    scores = json.loads(Run(place / "dml").evaluations()[-1].read_text())
    assert scores["test/accuracy"] == metrics["test/accuracy"]
    assert scores["test/map@r"] == metrics["test/map@r"]
    assert 0 < scores["test/f1"] < 1
    assert 0 < scores["test/nmi"] < 1
    assert scores["test/density_ratio"] == pytest.approx(scores["test/density_intra"] / scores["test/density_inter"])
    assert scores["test/spectral_decay"] > 0
    assert "28 of 28 tensors from dml" in run(place, "train", "run=after", "trainer.steps=1", "init_from=dml")


def test_metric_learning_killed_and_resumed_equals_undisturbed(place):
    run(place, "train", "run=dml-whole", "trainer.steps=10", *DML)
    run(place, "train", "run=dml-two", "trainer.steps=5", *DML)
    resumed(place, "run=dml-two", "trainer.steps=10")
    kept = load_file(place / "dml-whole" / "last" / "trainer.safetensors")
    assert "objective.losses.multi_similarity.memory" in kept
    assert "objective.losses.proxy_nca.proxies" in kept
    assert not any("losses" in name for name in load_file(place / "dml-whole" / "last" / "model.safetensors"))
    equal_weights(place / "dml-whole", place / "dml-two")
