"""Prototypes that move towards unlabeled items: what the three k-means of Ren et al. share."""

from __future__ import annotations

import abc
import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.prototypes import one_hot
from episodic.episodes.arguments import integer, number
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractLearner, natural_temperature
from episodic.learners.prediction import Prediction
from episodic.learners.prototypical import Prototypical
from episodic.semi.wrapper import AbstractWrapper, check_distance, check_metric_learner, unwrapped

ITSELF = "steps=0 is the learner itself"


class AbstractRefinement(AbstractWrapper):
    """Refines the prototypes by `steps` steps of k-means with soft assignments, then gives them to the learner as its support.

        p_c = mean of f(x) over the support of class c
        p_c <- (sum of f(x) over the support of c + sum_j w_jc f(u_j)) / (K_c + sum_j w_jc),    `steps` times

    Items of the support keep their labels. The three methods differ in the `weights` w. The learner gets one support item for each
    class, the refined prototype. For Prototypical Networks that is the paper's method; for other learners it is an extension.

    **Arguments:** `learner` and the `name` of the wrapper, for messages; `steps`, `temperature`, `distance`: see the three.
    `detach`: the weights are constants to the gradient.

    **Raises:** `ValueError` for invalid settings, and for a learner without embeddings.
    """

    def __init__(
        self,
        learner: AbstractLearner,
        name: str,
        steps: int,
        temperature: float | None,
        distance: AbstractDistance,
        detach: bool = False,
    ):
        super().__init__()
        self.learner = check_metric_learner(learner, name)
        self.steps = integer("steps", steps, at_least=0, note=" (0 is the learner itself)")
        self.temperature = None if temperature is None else number("temperature", temperature, above=0)
        self.distance = check_distance(distance, name)
        self.detach = detach
        self.without_effect = {} if steps else {"temperature": ITSELF, "distance": ITSELF}

    @abc.abstractmethod
    def weights(
        self,
        distances: Float[Tensor, "episode unlabeled way"],
        unlabeled: Float[Tensor, "episode unlabeled dim"],
        initial: Float[Tensor, "episode unlabeled way"],
    ) -> Float[Tensor, "episode unlabeled way"]:
        """How much each unlabeled item counts for each class. `distances` are those to the prototypes, divided by the temperature;
        `initial` are those before the first step.
        """

    def temperature_for(self, dim: int) -> float:
        """The temperature for embeddings of `dim` coordinates: as set, else that of Prototypical Networks, else one that follows
        the embedding.
        """
        inner = unwrapped(self.learner)[-1]
        given = self.temperature or (inner.temperature if isinstance(inner, Prototypical) else None)
        return given or natural_temperature(self.distance, inner.backbone, dim)

    def classify_with_unlabeled(self, features: Task) -> Prediction:
        if self.steps == 0:
            return self.learner.classify(dataclasses.replace(features, unlabeled=None))
        support, unlabeled = features.support.flatten(2), features.unlabeled.flatten(2)
        member = one_hot(features.support_y, features.n_way)
        sums, counts = member.mT @ support, member.sum(1)[..., None]
        centers = sums / counts.clamp(min=1)
        temperature = self.temperature_for(unlabeled.shape[-1])
        initial = self.distance.distances(unlabeled, centers) / temperature
        distances = initial
        for step in range(self.steps):
            if step:
                distances = self.distance.distances(unlabeled, centers) / temperature
            weights = self.weights(distances, unlabeled, initial)
            weights = weights.detach() if self.detach else weights
            total = counts + weights.sum(1)[..., None]
            centers = (sums + weights.mT @ unlabeled) / torch.where(total > 0, total, 1)
        refined = dataclasses.replace(
            features,
            support=centers.unflatten(-1, features.support.shape[2:]),
            support_y=torch.arange(features.n_way, device=centers.device).expand(len(centers), -1),
            unlabeled=None,
        )
        return dataclasses.replace(self.learner.classify(refined), unlabeled=weights)
