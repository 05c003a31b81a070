"""A run of few weights on small gray pictures, untrained, for the tests of what answers people's own pictures."""

from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from episodic.assemble.learner import build_parts
from episodic.config.compose import compose_config
from episodic.run.run import Run
from tests.conftest import random_store

SMALL = ["task=folder_5w1s", "task.dataset.path=.", "task.channels=1", "task.image_size=16", "task.n_way=3",
         "backbone.widths=[8,8,8,8]", "device=cpu", "precision=fp32"]  # fmt: skip


class NothingBeside:
    """A training procedure that keeps nothing beside the learner."""

    def state_dict(self):
        return {"tensors": {}, "optimizer": {}}

    def load_state_dict(self, state):
        pass


def small_run(folder: Path, *options: str) -> str:
    """Make `folder` a run with the options given."""
    cfg = compose_config("train", [*SMALL, f"run={folder}", *options])
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    Run(folder).save("best", build_parts(cfg).learner, NothingBeside(), {})
    return str(folder)


STORE = random_store(classes=3, per_class=12, size=16)
SUPPORT = np.array([0, 1, 2, 12, 13, 24])  # unequal shots
QUERY = np.setdiff1d(np.arange(36), [*SUPPORT, *range(30, 36)])
UNLABELED = np.arange(30, 36)
