"""What a learner is: a function from a task to a prediction."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import torch
from torch import nn

from episodic.episodes.task import Task
from episodic.learners.prediction import Prediction


class AbstractLearner(nn.Module, abc.ABC):
    """A function from a task to a prediction: same call, same answer; no episode is kept on `self`.

    `transductive` says whether the answer to one query may depend on the other queries; reports name it, and the audit of
    `episodic.evaluate` checks it. `incremental` says whether it can answer with training classes too (`Task.n_base`).
    `uses_unlabeled` says whether unlabeled items matter to it. `needs_start`, where not empty, says how to make the run that
    training must start from. `views`: in training, under how many draws of the augmentation it wants to see the items of a
    task; with 2 the second is `Task.again`.
    """

    transductive: bool = False
    incremental: bool = False
    uses_unlabeled: bool = False
    needs_start: str = ""
    views: int = 1

    @abc.abstractmethod
    def forward(self, task: Task) -> Prediction:
        """`task` of images -> prediction with logits `[E, Q, n_way]`."""

    def learned_parameters(self) -> list[nn.Parameter] | list[dict[str, Any]]:
        """What the optimiser moves: weights, or groups of them, each with a `rate`, a factor on the learning rate."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def after_step(self) -> None:
        """Called by training after each step of the optimiser."""


def map_shape(backbone: nn.Module, learner: str, positions: int = 1) -> tuple[int, int, int]:
    """`(channels, height, width)` of the maps of `backbone`, for learners that look at positions.

    **Raises:** `ValueError` where it gives vectors, or maps of fewer than `positions`.
    """
    shape = tuple(backbone.shape)
    if len(shape) != 3 or shape[1] * shape[2] < positions:
        wanted = "maps [channels, height, width]" + f" of at least {positions} positions" * (positions > 1)
        raise ValueError(
            f"{learner} looks at {wanted}, but the backbone's embeddings are of shape {list(shape)}: take "
            "backbone.output=map, on images large enough to leave such a map"
        )
    return shape


class AbstractMetricLearner(AbstractLearner):
    """A learner that compares embeddings: `forward(task) = classify(task.map(backbone))`.

    `classify` sees features in the place of images, so such a learner can be evaluated on features computed once.
    """

    backbone: nn.Module

    @abc.abstractmethod
    def classify(self, features: Task) -> Prediction:
        """`features`, a task whose items are embeddings of the backbone's `shape` -> prediction."""

    def embed(self, task: Task) -> Task:
        """The task with its images replaced by float32 embeddings, computed as one batch."""
        return task.map(lambda items: self.backbone(items).float())

    def forward(self, task: Task) -> Prediction:
        if not self.uses_unlabeled:
            task = dataclasses.replace(task, unlabeled=None)  # not even through batch norm
        features = self.embed(task)
        # Only the backbone may run in bf16: distances are small differences of large products.
        with torch.autocast(features.query.device.type, enabled=False):
            return self.classify(features)
