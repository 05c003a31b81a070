"""The base of all learners: a learner is a function from a task to a prediction."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from episodic.core.distances.distance import AbstractDistance
from episodic.episodes.arguments import refuse
from episodic.episodes.task import Task
from episodic.learners.prediction import Prediction


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a learner can do, and what it needs in training. A wrapper has those of the learner inside it, with some changed.

    - `transductive` (default false): whether the answer to a query may depend on the other queries. Reports name it, and the audit
      of `episodic.evaluate` checks it.
    - `incremental` (default false): whether it can answer with training classes too (`Task.n_base`).
    - `uses_unlabeled` (default false): whether it uses the unlabeled items of an episode.
    - `n_views` (default 1): under how many draws of the augmentation it sees the items of a task in training. With 2 the second one
      is `Task.second_view`.
    - `needs_init` (default empty): how to make the run that training must start from (`init_from=<run>`); empty where it needs
      none.
    - `trainer` (default empty): the one training procedure that can train it, an option of `conf/trainer`; empty where any can.
    - `meta_batch`, `clip_norm` (default 1 and 0): episodes of a step of training, and the largest norm of its gradient, 0 for any.
    - `episodes_apart` (default false): whether its network sees the items of one episode at a time, and so does batch norm.

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
    meta_batch: int = 1
    clip_norm: float = 0.0
    episodes_apart: bool = False


class AbstractLearner(nn.Module, abc.ABC):
    """A function from a task to a prediction. The same call gives the same answer, since no episode is stored on `self`.

    Subclasses write `forward`.

    - `capabilities`: what the learner can do. Where this depends on settings, the constructor assigns it.
    - `without_effect`: settings that do nothing beside the others that were given, by their name in the configuration, each with
      the reason. Training refuses them where they are given by hand.

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
        """The prediction for a task of images, with logits `[E, Q, n_way]`."""

    def learned_parameters(self) -> list[nn.Parameter]:
        """Hook: what the optimizer moves. By default every parameter that asks for a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def after_step(self) -> None:
        """Hook: called by training after each step of the optimizer. By default nothing happens."""


def embedding_shape(backbone: nn.Module) -> tuple[int, ...]:
    """The shape of a backbone's embeddings, which it says as `shape`. Learners with layers of their own need it.

    **Raises:** `ValueError` for something else than a module, or a module that does not say it.

    >>> embedding_shape(nn.Flatten())
    Traceback (most recent call last):
    ...
    ValueError: backbone must be a module with the shape of its embeddings as its attribute shape, got a Flatten
    """
    shape = getattr(backbone, "shape", None)
    if not isinstance(backbone, nn.Module) or shape is None:
        refuse("backbone", "a module with the shape of its embeddings as its attribute shape", backbone)
    return tuple(shape)


def natural_temperature(distance: AbstractDistance, backbone: nn.Module, dim: int) -> float:
    """What to divide comparisons of embeddings by, so that a softmax of them is neither flat nor hard, whatever the backbone is.

        typical^(degree / 2) / 8,    typical = 2 dim, or the squared length of embeddings where all have the same

    Coordinates after batch norm have a variance of about 1, so squared distances are about twice the dimension. Two embeddings
    of one length are that far apart where their cosine is one half. A comparison that does not depend on the length, such as
    the cosine, has degree 0.

    **Arguments:** `distance`: what is compared by. `dim`: of the embeddings.

    >>> from episodic.core.distances.squared_euclidean import SquaredEuclidean
    >>> natural_temperature(SquaredEuclidean(), nn.Flatten(), dim=64)
    16.0
    """
    squared_length = getattr(backbone, "squared_length", None)
    return (2 * dim if squared_length is None else squared_length) ** (distance.degree / 2) / 8


def map_shape(backbone: nn.Module, learner: str, positions: int = 1) -> tuple[int, int, int]:
    """The shape of a backbone's maps, `(channels, height, width)`. Learners that look at positions of an image need maps.

    **Arguments:** `learner`: the learner's name, for messages. `positions` (default 1): how many positions a map must have at
    least.

    **Raises:** `ValueError` where the backbone gives vectors, or maps of fewer positions.

    >>> backbone = nn.Identity()
    >>> backbone.shape = (64, 5, 5)
    >>> map_shape(backbone, "TPN")
    (64, 5, 5)
    """
    shape = embedding_shape(backbone)
    if len(shape) != 3 or shape[1] * shape[2] < positions:
        wanted = "maps [channels, height, width]" + f" of at least {positions} positions" * (positions > 1)
        raise ValueError(
            f"{learner} looks at {wanted}, but the backbone's embeddings are of shape {list(shape)}: take "
            "backbone.output=map, on images large enough to leave such a map"
        )
    return shape


class AbstractMetricLearner(AbstractLearner):
    """A learner that compares embeddings: it embeds all items of a task by its backbone, and then classifies the queries. Since the
    two steps are apart, it can be evaluated on features that are computed once.

        forward(task) = classify(task.map(backbone))

    Subclasses write `classify`, and have a `backbone`. One that takes a distance keeps it as `distance`. Only the backbone may run
    in bf16: distances are small differences of large products.

    >>> import torch
    >>> from episodic import Prediction, Task
    >>> class Nearest(AbstractMetricLearner):  # the class of the nearest support item
    ...     def __init__(self, backbone):
    ...         super().__init__()
    ...         self.backbone = backbone
    ...     def classify(self, features):
    ...         distances = torch.cdist(features.query, features.support)[..., None]
    ...         other = torch.nn.functional.one_hot(features.support_y, features.n_way)[:, None] == 0
    ...         return Prediction(-distances.expand(*other.shape).masked_fill(other, torch.inf).amin(2))
    >>> support = torch.tensor([[[0.0], [4.0]]])
    >>> Nearest(nn.Identity())(Task(support, torch.tensor([[0, 1]]), query=torch.tensor([[[1.0]]]), n_way=2)).logits
    tensor([[[-1., -3.]]])
    """

    backbone: nn.Module

    @abc.abstractmethod
    def classify(self, features: Task) -> Prediction:
        """The prediction for `features`, a task whose items are embeddings of the backbone's `shape`."""

    def features(self, task: Task) -> Task:
        """What `classify` is given: the task with its images replaced by float32 embeddings, which are computed as one batch.
        Unlabeled items are left out where the learner does not use them.
        """
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
