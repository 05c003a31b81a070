"""Episodic training: each step is one or more episodes in the shape of the task."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from episodic.episodes.arguments import integer
from episodic.episodes.task import Task, gather_episode
from episodic.run.distributed import check_can_be_dealt, dealt
from episodic.train.procedure import AbstractProcedure

EPISODES = "episodes (trainer.episodes_per_step)"


@dataclasses.dataclass(eq=False)
class EpisodicTraining(AbstractProcedure):
    """Trains a learner on the same kind of episodes that it is tested on. Each step draws new episodes of training classes.

    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: *Matching Networks for One Shot Learning*, NeurIPS 2016,
    https://arxiv.org/abs/1606.04080.

    **Arguments** beside those of every procedure: `episodes_per_step` (default None): how many episodes a step has; None for
    `capabilities.meta_batch` of the learner.

    >>> from torch import nn
    >>> from episodic.data.augment import Normalize
    >>> from episodic.data.store import ImageStore
    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> from episodic.learners.prototypical import Prototypical
    >>> from episodic.run.device import Hardware
    >>> from episodic.train.procedure import Setup
    >>> images, labels = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8), torch.arange(20) // 10
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple(map(str, range(20))), None, (), "pets", "train", "ours")
    >>> setup = Setup(
    ...     learner=Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(16, 4))), store=store, normalize=Normalize([0.5], [0.5]),
    ...     optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), hardware=Hardware.choose("cpu", "fp32"),
    ...     episodes=lambda n, per_step: EpisodeSampler(labels, 2, 1, 4, episodes=n, episodes_per_batch=per_step),
    ... )
    >>> training = EpisodicTraining(setup, steps=10, episodes_per_step=2)
    >>> loss, accuracy = training.training_step()
    >>> training.step, bool(loss > 0), training.unit, training.per_step
    (1, True, 'episodes', 2)
    """

    episodes_per_step: int | None = None

    unit: ClassVar[str] = "episodes"

    def __post_init__(self):
        if self.episodes_per_step is None:
            self.episodes_per_step = self.setup.learner.capabilities.meta_batch
        integer("trainer.episodes_per_step", self.episodes_per_step, at_least=1)
        super().__post_init__()

    @property
    def per_step(self) -> int:
        return self.episodes_per_step

    def prepare(self) -> None:
        check_can_be_dealt(self.episodes_per_step, EPISODES)
        self.source = self.setup.episodes(self.steps * self.episodes_per_step, self.episodes_per_step)

    def compute_loss(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        setup = self.setup
        with dealt(self.episodes_per_step, EPISODES) as share:
            indices = self.source.batch(self.step)[share.slice]
            episode = gather_episode(indices, setup.store.gather, setup.hardware.device)
            seen = dataclasses.replace(episode.task, class_ids=episode.class_ids)
            views = [
                seen.map(lambda images: setup.normalize(images, setup.augment, generator))
                for _ in range(setup.learner.capabilities.n_views)
            ]
            task: Task = dataclasses.replace(views[0], second_view=views[1] if len(views) > 1 else None)
            return setup.objective.of_episode(setup.learner, dataclasses.replace(episode, task=task), setup.hardware)
