"""Episodic training: every step is a batch of episodes in the shape of the task."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from episodic.episodes.task import Task, gather_episode
from episodic.train.procedure import AbstractProcedure


@dataclasses.dataclass(eq=False)
class EpisodicTraining(AbstractProcedure):
    """Trains a learner on the very kind of episodes that it is tested on. Each step draws new ones.

    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: *Matching Networks for One Shot Learning*, NeurIPS 2016,
    https://arxiv.org/abs/1606.04080.

    **Arguments** beside those of every procedure: `episodes_per_step`, stacked in one forward pass.
    """

    episodes_per_step: int = 1

    unit: ClassVar[str] = "episodes"

    @property
    def per_step(self) -> int:
        return self.episodes_per_step

    def prepare(self) -> None:
        self.source = self.setup.episodes(self.steps * self.episodes_per_step, self.episodes_per_step)

    def compute_loss(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        setup = self.setup
        episode = gather_episode(self.source.batch(self.step), setup.store.gather, setup.hardware.device)
        seen = dataclasses.replace(episode.task, class_ids=episode.class_ids)
        views = [
            seen.map(lambda images: setup.normalize(images, setup.augment, generator))
            for _ in range(setup.learner.capabilities.n_views)
        ]
        task: Task = dataclasses.replace(views[0], second_view=views[1] if len(views) > 1 else None)
        return setup.objective.of_episode(setup.learner, dataclasses.replace(episode, task=task), setup.hardware)
