"""A learner of your own outside the package. This is the first of its three files."""

from __future__ import annotations

import torch
from torch import nn

from episodic import Prediction, Task
from episodic.core.functional.pairs import squared_euclidean
from episodic.core.functional.prototypes import one_hot
from episodic.learners.learner import AbstractMetricLearner


class SoftNeighbors(AbstractMetricLearner):
    """Classifies a query by its distances to the support items themselves, not to their means.

        logit[q, n] = log of sum over the support s of class n of exp(-||f(x_q) - f(x_s)||^2 / temperature)

    Goldberger, Roweis, Hinton, Salakhutdinov: *Neighborhood Components Analysis*, NeurIPS 2004; in episodes, Laenen, Bertinetto:
    *On Episodes, Prototypical Networks, and Few-shot Learning*, NeurIPS 2021, https://arxiv.org/abs/2012.09831. Inductive. With one
    shot it is a prototypical network.
    """

    def __init__(self, backbone: nn.Module, temperature: float = 1.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.backbone = backbone
        self.temperature = temperature

    def classify(self, features: Task) -> Prediction:
        support, query = features.support.flatten(2), features.query.flatten(2)
        nearness = -squared_euclidean(query, support) / self.temperature  # [E, Q, S]
        of_class = one_hot(features.support_y, features.n_way).mT.bool()  # [E, n_way, S]
        nearness = nearness[:, :, None].masked_fill(~of_class[:, None], -torch.inf)
        return Prediction(nearness.logsumexp(-1))
