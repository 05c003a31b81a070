"""Matching Networks."""

from __future__ import annotations

from torch import nn

from episodic.core.functional import cosine_similarities, one_hot
from episodic.episode import Task
from episodic.learners.learner import AbstractMetricLearner
from episodic.prediction import Prediction


class Matching(AbstractMetricLearner):
    """Classifies a query by its attention over all support items.

        a[q, i] = softmax_i(scale * cos(f(x_q), f(x_i))),    p[q, n] = sum of a[q, i] over the support of class n

    The logits are `log p`, computed as a difference of two log-sum-exps.

    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: *Matching Networks for One Shot Learning*, NeurIPS 2016,
    https://arxiv.org/abs/1606.04080. Inductive; without full-context embeddings, f = g. Features of any shape are flattened.

    Departure: `scale`, 1 in the paper. An unscaled cosine caps the confidence (at most 0.65 for 5-way 1-shot), so training
    is slow and ends lower; the default here is 10.
    """

    def __init__(self, backbone: nn.Module, scale: float = 10.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.backbone = backbone
        self.scale = scale

    def classify(self, features: Task) -> Prediction:
        similarity = self.scale * cosine_similarities(features.query.flatten(2), features.support.flatten(2))
        member = one_hot(features.support_y, features.n_way).bool()  # [E, S, way]
        # [E, Q, S, way]: a class's own support items, the others at minus infinity
        own = similarity[..., None].masked_fill(~member[:, None], float("-inf"))
        return Prediction(own.logsumexp(-2) - similarity.logsumexp(-1, keepdim=True))
