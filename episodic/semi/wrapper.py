"""The base of all wrappers: a wrapper is a learner around a learner, such as one that uses unlabeled items."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from episodic.core.distances.distance import AbstractDistance
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner, Capabilities
from episodic.learners.prediction import Prediction


class Wrapping:
    """A learner around another one, which is its attribute `learner`. It can do what that one can, but for its own `changes`.

    `changes` are names of `Capabilities` and the values that the wrapper gives them (default: it uses unlabeled items).

    >>> import torch
    >>> from episodic.learners.prototypical import Prototypical
    >>> from episodic.semi.mean_teacher import mean_teacher
    >>> wrapped = mean_teacher(Prototypical(torch.nn.Identity()))
    >>> wrapped.changes
    {'uses_unlabeled': True, 'n_views': 2}
    >>> wrapped.capabilities.uses_unlabeled, wrapped.capabilities.transductive
    (True, False)
    """

    learner: AbstractLearner
    changes: Mapping[str, Any] = {"uses_unlabeled": True}

    @property
    def capabilities(self) -> Capabilities:
        """Those of the learner inside, with the wrapper's `changes`."""
        return dataclasses.replace(self.learner.capabilities, **self.changes)


class AbstractWrapper(Wrapping, AbstractMetricLearner):
    """A metric learner that answers by another one, with the help of unlabeled items. The other one is its attribute `learner`.

    Subclasses write `classify_with_unlabeled`. Tests hold these laws for each of them: without unlabeled items it is `learner`
    itself, exactly; so it is in its null setting (no steps, no weight); labeled items keep their labels; the order of unlabeled
    items does not matter.

    **Class attributes:**

    - `works_without_unlabeled` (default false): whether it also changes answers in episodes without unlabeled items, by their
      queries.
    - `keeps_own_loss` (default true): whether training still uses the loss of the learner inside.
    - `takes_embedding_alone` (default false): whether it uses nothing but the embedding of the learner inside.

    >>> import torch
    >>> from episodic.core.distances.cosine import Cosine
    >>> from episodic.learners.prototypical import Prototypical
    >>> class Centered(AbstractWrapper):  # moves the mean of the unlabeled items to 0
    ...     def __init__(self, learner):
    ...         super().__init__()
    ...         self.learner = learner
    ...     def classify_with_unlabeled(self, features):
    ...         mean = features.unlabeled.mean(1, keepdim=True)
    ...         moved = dataclasses.replace(features, support=features.support - mean, query=features.query - mean)
    ...         return self.learner.classify(moved)
    >>> wrapped = Centered(Prototypical(nn.Identity(), temperature=1.0, distance=Cosine()))
    >>> support, query = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[4.0]]])
    >>> task = Task(support, torch.tensor([[0, 1]]), query, n_way=2)
    >>> wrapped(task).logits, wrapped(dataclasses.replace(task, unlabeled=torch.tensor([[[2.0]]]))).logits
    (tensor([[[1., 1.]]]), tensor([[[-1.,  1.]]]))
    """

    learner: AbstractMetricLearner
    works_without_unlabeled: bool = False
    keeps_own_loss: bool = True
    takes_embedding_alone: bool = False

    @property
    def backbone(self) -> nn.Module:
        """The backbone of the learner inside."""
        return self.learner.backbone

    @abc.abstractmethod
    def classify_with_unlabeled(self, features: Task) -> Prediction:
        """The prediction for `features`, which have unlabeled items."""

    def classify(self, features: Task) -> Prediction:
        if features.unlabeled is None and not self.works_without_unlabeled:
            return self.learner.classify(features)
        return self.classify_with_unlabeled(features)


def unwrapped(learner: AbstractLearner) -> list[AbstractLearner]:
    """The layers of a wrapped learner, from the outermost wrapper to the innermost learner. A learner without a wrapper is alone in
    the list.

    >>> import torch
    >>> from episodic.learners.prototypical import Prototypical
    >>> from episodic.semi.soft_kmeans import SoftKMeans
    >>> [type(layer).__name__ for layer in unwrapped(SoftKMeans(Prototypical(torch.nn.Identity())))]
    ['SoftKMeans', 'Prototypical']
    """
    inner = getattr(learner, "learner", None)
    return [learner] if inner is None else [learner, *unwrapped(inner)]


def check_metric_learner(learner: AbstractLearner, wrapper: str) -> AbstractMetricLearner:
    """The learner itself, if the wrapper of that name can be put around it: it must be a metric learner and must not use the
    unlabeled items.

    **Raises:** `ValueError` if it cannot.

    >>> import torch
    >>> from episodic.learners.prototypical import Prototypical
    >>> learner = Prototypical(torch.nn.Identity())
    >>> check_metric_learner(learner, "soft_kmeans") is learner
    True
    """
    if not isinstance(learner, AbstractMetricLearner):
        raise ValueError(
            f"semi={wrapper} works on embeddings, but {type(learner).__name__} has none: it adapts the backbone to each "
            "episode. Take a learner that compares embeddings, e.g. learner=prototypical"
        )
    inner = [
        type(layer).__name__
        for layer in unwrapped(learner)
        if isinstance(layer, AbstractWrapper) and layer.capabilities.uses_unlabeled
    ]
    if inner:
        raise ValueError(
            f"semi={wrapper} cannot go around {inner[0]}: unlabeled items are used once, so {inner[0]} would see none. Take one "
            "of the two; mean_teacher goes with either"
        )
    return learner


def check_distance(distance: AbstractDistance, wrapper: str) -> AbstractDistance:
    """The distance itself, if the wrapper of that name can compare embeddings by it.

    **Raises:** `ValueError` for a similarity that cannot be read as a distance.

    >>> from episodic.core.distances.cosine import Cosine
    >>> check_distance(Cosine(), "soft_kmeans")
    Cosine()
    """
    if not distance.has_distances:
        raise ValueError(
            f"semi={wrapper} needs distances, and {distance} cannot be read as one: take squared_euclidean, euclidean or cosine"
        )
    return distance
