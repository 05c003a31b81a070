"""Prototypical Networks."""

from __future__ import annotations

from torch import nn

from episodic.core.functional.pairs import squared_euclidean
from episodic.core.functional.prototypes import prototypes
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractMetricLearner
from episodic.learners.prediction import Prediction


class Prototypical(AbstractMetricLearner):
    """Classifies a query by its squared Euclidean distance to the mean embedding of each class.

        c_n = mean of f(x) over the support of class n,    logit[q, n] = -||f(x_q) - c_n||^2 / temperature

    Snell, Swersky, Zemel: *Prototypical Networks for Few-shot Learning*, NeurIPS 2017, https://arxiv.org/abs/1703.05175.
    Inductive. Features of any shape are flattened.

    Departure: `temperature` (1 in the paper). Wide backbones have squared distances in the hundreds, on which a softmax
    saturates: divide by their dimension (MetaOptNet's re-implementation) or by 64 (FEAT's).
    """

    def __init__(self, backbone: nn.Module, temperature: float = 1.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.backbone = backbone
        self.temperature = temperature

    def classify(self, features: Task) -> Prediction:
        support, query = features.support.flatten(2).float(), features.query.flatten(2).float()
        centers = prototypes(support, features.support_y, features.n_way)
        return Prediction(-squared_euclidean(query, centers) / self.temperature)
