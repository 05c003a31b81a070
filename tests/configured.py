"""Fixtures: a small folder of pictures, and configurations on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from episodic.assemble.learner import build_parts
from episodic.assemble.task import count_train_classes
from episodic.config.compose import compose_config
from episodic.run.run import Run

REAL = Path(__file__).parents[1] / ".." / "shared" / "data"
INCREMENTAL = ["task.base_way=4", "task.base_query=1", "task.held_out=0.5"]
UNLABELED = [
    "task.n_unlabeled=2",
    "task.n_distractors=1",
    "task.labeled_fraction=0.5",
    "task.n_query=1",
    "task.train.n_query=1",
]
FEW = [
    "learner=base_classifier",
    *INCREMENTAL,
    "task.labeled_fraction=0.5",
    "task.train.n_way=3",
    "task.train.n_query=1",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """25 classes of 8 noisy copies of a pattern: 16 to train, 4 for validation, 5 for test. The folder around them is for runs."""
    folder, random = tmp_path_factory.mktemp("place") / "pictures", np.random.default_rng(0)
    for c in range(25):
        pattern = random.uniform(60, 200, size=(16, 16))
        (folder / f"class{c:02}").mkdir(parents=True)
        for i in range(8):
            pixels = (pattern + random.normal(0, 40, size=(16, 16))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c:02}" / f"{i}.png")
    return folder


@pytest.fixture
def config(pictures, monkeypatch):
    """A small configuration with the options given."""
    monkeypatch.setenv("EPISODIC_CACHE", str(pictures.with_name("cache")))

    def compose(*options):
        size = ["channels=1", "image_size=16", "n_way=3", "n_query=2"]
        size += ["train.n_way=3", "train.n_query=2", f"dataset.path={pictures}"]
        fixed = [
            "task=folder_5w1s",
            *(f"task.{s}" for s in size),
            "backbone.widths=[8,8]",
            "augment=none",
            "device=cpu",
        ]
        per_step = (
            []
            if any(o.startswith("trainer=") or "pseudo_labels" in o for o in options)
            else ["trainer.episodes_per_step=2"]
        )
        cfg = compose_config("train", [*fixed, "trainer.steps=2", *per_step, *options])
        count_train_classes(cfg)
        return cfg

    return compose


class Kept:
    """Stands for a training procedure that keeps nothing."""

    def state_dict(self):
        return {"tensors": {}, "optimizer": {}}

    def load_state_dict(self, state):
        pass


def saved(folder, cfg, teacher=1.0):
    """A run in `folder` with weights of its own; `teacher`: what is added to those of a mean teacher, 1 to others."""
    learner, run = build_parts(cfg).learner, Run(folder)
    folder.mkdir(exist_ok=True)
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            parameter.add_(teacher if name.startswith("teacher.") else 1.0)
    run.save("best", learner, Kept(), {"step": 1})
    folder.joinpath("config.yaml").write_text(OmegaConf.to_yaml(cfg))
    return learner
