"""What a learner is: a function from a task to a prediction."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from episodic.episodes.task import Task
from episodic.learners.prediction import Prediction


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a learner can do, and what it asks of its training. A wrapper hands on those of the learner inside it, with what it
    changes.

    - `transductive`: whether the answer to one query may depend on the other queries. Reports name it, and the audit of
      `episodic.evaluate` checks it.
    - `incremental`: whether it can answer with training classes too (`Task.n_base`).
    - `uses_unlabeled`: whether unlabeled items of an episode matter to it.
    - `n_views`: in training, under how many draws of the augmentation it sees the items of a task; with 2 the second is
      `Task.second_view`.
    - `needs_init`: how to make the run that training must start from (`init_from=<run>`); empty where it needs none.
    - `trainer`: the one training procedure that can train it, an option of `conf/trainer`; empty where any can.

    >>> Capabilities(transductive=True).transductive
    True
    >>> Capabilities() == Capabilities(incremental=False, n_views=1)
    True
    """

    transductive: bool = False
    incremental: bool = False
    uses_unlabeled: bool = False
    n_views: int = 1
    needs_init: str = ""
    trainer: str = ""


class AbstractLearner(nn.Module, abc.ABC):
    """A function from a task to a prediction. The same call gives the same answer: no episode is kept on `self`.

    `capabilities` says what it can do; one whose settings decide that assigns it in its constructor. So it does with
    `without_effect`: settings that nothing reads as the others are, by their name in the configuration, and the reason in a few
    words. Training refuses them where they are given by hand.

    >>> import torch
    >>> from episodic import Prediction
    >>> class Undecided(AbstractLearner):
    ...     def forward(self, task):
    ...         return Prediction(torch.zeros(*task.query.shape[:2], task.n_way))
    >>> Undecided().capabilities.transductive, Undecided().without_effect
    (False, {})
    """

    capabilities: Capabilities = Capabilities()
    without_effect: Mapping[str, str] = {}

    @abc.abstractmethod
    def forward(self, task: Task) -> Prediction:
        """A task of images -> the prediction, with logits `[E, Q, n_way]`."""

    def learned_parameters(self) -> list[nn.Parameter]:
        """Hook: what the optimizer moves. By default every parameter that asks for a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def after_step(self) -> None:
        """Hook: called by training after each step of the optimizer. By default nothing happens."""


def map_shape(backbone: nn.Module, learner: str, positions: int = 1) -> tuple[int, int, int]:
    """The shape of the backbone's maps, `(channels, height, width)`. Learners that look at positions ask for it; `learner` is
    their name in messages.

    **Raises:** `ValueError` where it gives vectors, or maps of fewer than `positions`.

    >>> backbone = nn.Identity()
    >>> backbone.shape = (64, 5, 5)
    >>> map_shape(backbone, "TPN")
    (64, 5, 5)
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
    """A learner that compares embeddings: `forward(task) = classify(task.map(backbone))`. As `classify` sees features in the
    place of images, such a learner can be evaluated on features computed once.

    One that takes a distance keeps it as `distance`.
    """

    backbone: nn.Module

    @abc.abstractmethod
    def classify(self, features: Task) -> Prediction:
        """`features`, a task whose items are embeddings of the backbone's `shape` -> prediction."""

    def features(self, task: Task) -> Task:
        """What `classify` is given: the task with its images replaced by float32 embeddings, computed as one batch."""
        if not self.capabilities.uses_unlabeled:
            task = dataclasses.replace(task, unlabeled=None)  # not even through batch norm
        return self.embed(task)

    def embed(self, task: Task) -> Task:
        """The task with all of its images replaced by float32 embeddings, unlabeled ones too."""
        return task.map(lambda items: self.backbone(items).float())

    def forward(self, task: Task) -> Prediction:
        features = self.features(task)
        # Only the backbone may run in bf16: distances are small differences of large products.
        with torch.autocast(features.query.device.type, enabled=False):
            return self.classify(features)
