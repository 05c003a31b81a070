"""Cross-validation end to end on tiny pictures: models of all folds, scored alone and together."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from episodic.assemble.load import load_parts
from episodic.run.embed import embeddings_of
from episodic.run.lock import WriterLock
from episodic.run.run import Run
from tests.command import run_command

SMALL = ["task=folder_5w1s", "task.dataset.path=pictures", "task.channels=1", "task.image_size=16", "task.n_way=3",
         "task.n_query=3", "augment=none", "backbone.widths=[8,8,8,8]", "device=cpu", "precision=fp32",
         "trainer.validate_every=10", "trainer.save_every=5", "trainer.validation_episodes=20", "episodes=40"]  # fmt: skip
DML = [
    *("trainer=dml", "trainer.classes_per_batch=5", "trainer.images_per_class=3", "loss=[multi_similarity,proxy_nca]"),
    *("memory=xbm", "memory.start=2", "memory.size=40", "sse=se", "sse.probability=0.3"),
]


@pytest.fixture(scope="module")
def place(pictures):
    """The folder where the commands run, with `pictures` in it."""
    return pictures.parent


def run(place, *options, code=0):
    """What the command prints, run in this process."""
    environment = {"EPISODIC_CACHE": str(place / "cache")}
    ended, out, err = run_command("cross_validate", *SMALL, *options, cwd=place, environment=environment)
    assert ended == code, err + out
    return out if code == 0 else out + err


def test_cross_validation_scores_models_alone_and_together(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("EPISODIC_CACHE", str(place / "cache"))
    options = ("run=folds", "repeats=1", "task.folds=2", "trainer.steps=4", *DML)
    output = run(place, *options)
    runs = [place / "folds" / f"0-{fold}" for fold in range(2)]
    alone = [json.loads((folder / "metrics.json").read_text()) for folder in runs]
    assert [metrics["train/classes"] for metrics in alone] == [8, 8]
    assert alone[0]["train/class_hash"] == alone[1]["val/class_hash"] != alone[1]["train/class_hash"]
    assert alone[0]["test/classes"] == 5
    record = json.loads((place / "folds" / "cross_validation.json").read_text())
    for metric in ("recall@1", "map@r", "accuracy"):
        mean = np.mean([metrics[f"test/{metric}"] for metrics in alone])
        assert record[f"separated/{metric}"] == [pytest.approx(mean, abs=1e-6)]
    assert record["concatenated/recall@1"] == [pytest.approx(nearest_are_right(runs), abs=1e-6)]
    assert f"{100 * record['concatenated/map@r'][0]:.2f} ± inf" in output, "one repeat says nothing of the next"
    again = run(place, *options)
    assert "step      4  validation" not in again  # nothing was trained again
    assert json.loads((place / "folds" / "cross_validation.json").read_text()) == record
    environment = {"EPISODIC_CACHE": str(place / "cache")}
    code, single, err = run_command("train", "resume=true", "run=folds/0-1", cwd=place, environment=environment)
    assert code == 0, err
    assert "all 4 steps are done, scored again" in single, "a fold is a run as others are"
    with WriterLock(place / "folds"):
        assert "folds is in use: process" in run(place, *options, code=2)


def nearest_are_right(runs):
    """Share of the test images whose nearest other one, by both models' cosines, is of their class."""
    similarity = 0
    for folder in runs:
        cfg = Run(folder).config()
        parts = load_parts(cfg, str(folder), as_saved=True)
        store = parts.dataset.store("test")
        vectors, labels = embeddings_of(parts.learner, store, parts.normalize, parts.hardware)
        similarity = similarity + torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    return (labels[similarity.fill_diagonal_(-9).argmax(1)] == labels).float().mean().item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["learner=maml"], "cross-validation compares embeddings, and MAML"),
        (["task.fold=1"], "every fold in turn, so task.fold cannot be given"),
        (["resume=true"], "resume would have no effect here: cross-validation goes on by itself"),
        (["repeats=0"], "repeats must be at least 1, got 0"),
        (["task.folds=17"], "task.folds must be an integer, at least 2 and below 17"),
    ],
)
def test_cross_validation_that_cannot_be_is_refused(place, options, message):
    said = run(place, "run=none", *DML, *options, code=2)
    assert message in said
    assert "Traceback" not in said


def test_the_command_is_a_module_that_runs(place):
    """A real process, as a user starts it."""
    command = [sys.executable, "-m", "episodic.cross_validate", *SMALL, *DML, "run=real", "task.fold=1"]
    environment = {**os.environ, "EPISODIC_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=place, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("episodic.cross_validate: cross-validation trains on every fold in turn")
