"""Relation Networks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d

from episodic.core.functional.prototypes import one_hot
from episodic.episodes.arguments import choice
from episodic.episodes.task import Episode, Task
from episodic.learners.learner import AbstractMetricLearner, map_shape
from episodic.learners.prediction import Prediction

Loss = Literal["squared_error", "cross_entropy"]
PAIRS = 2**10  # pairs of query and class that evaluation computes together


class Relation(AbstractMetricLearner):
    """Learns to tell whether a query belongs to a class. A network scores the map of the query together with the map of the class.

        m_n = sum of f(x) over the support of class n,    r[q, n] = sigmoid(g([m_n, f(x_q)]))
        loss = mean of (r[q, n] - 1[y_q = n])^2 over all pairs

    The logits are g, the scores before the sigmoid. They rank the classes, but neither r nor the softmax of g is calibrated, since
    only one pair in n_way is positive. `loss=cross_entropy` trains by the cross-entropy of that softmax instead.

    Sung, Yang, Zhang, Xiang, Torr, Hospedales: *Learning to Compare: Relation Network for Few-Shot Learning*, CVPR 2018,
    https://arxiv.org/abs/1711.06025. Inductive. The paper's encoder is `backbone=conv4 backbone.pools=2 backbone.unpadded=2`.

    Departures: evaluation with the running statistics of batch norm, at PyTorch's momentum. The released code never leaves
    training mode, so its published numbers are transductive, and keeps the last batch's statistics (momentum 1); its users
    saw up to 10 points less in evaluation mode. The backbone starts as it does for other learners.

    **Arguments:** `loss`: `squared_error` or `cross_entropy`.

    **Raises:** `ValueError` for a backbone of vectors, and for another loss.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Identity()  # leaves maps as they are
    >>> backbone.shape = (2, 5, 5)
    >>> task = Task(torch.randn(1, 3, 2, 5, 5), torch.tensor([[0, 1, 2]]), torch.randn(1, 4, 2, 5, 5), n_way=3)
    >>> Relation(backbone).eval()(task).logits.shape  # a score for each pair of query and class
    torch.Size([1, 4, 3])
    """

    def __init__(self, backbone: nn.Module, loss: Loss = "squared_error"):
        super().__init__()
        self.backbone = backbone
        self.relation = RelationModule(*map_shape(backbone, "a Relation Network"))
        self.loss = choice("loss", loss, Loss)

    def classify(self, features: Task) -> Prediction:
        member = one_hot(features.support_y, features.n_way).to(features.support.dtype)
        classes = (member.mT @ features.support.flatten(2)).unflatten(-1, features.support.shape[2:])
        # Batch norm needs all pairs at once in training; evaluation takes a large episode in pieces.
        piece = features.query.shape[1] if self.training else max(1, PAIRS // classes.shape[:2].numel())
        scores = torch.cat([self.relation(classes, some) for some in features.query.split(piece, dim=1)], dim=1)

        def squared_error(episode: Episode) -> Float[Tensor, " episode"]:
            return (scores.sigmoid() - one_hot(episode.query_y, features.n_way)).square().mean((1, 2))

        return Prediction(scores, squared_error if self.loss == "squared_error" else None)


class RelationModule(nn.Module):
    """Scores every pair of a class map and a query map, concatenated on their channels. Its layers are two blocks of 3x3
    convolution to 64 channels, batch norm, ReLU and 2x2 max-pooling, then linear layers to 8 and to 1.

    For maps of at least 10 pixels a side the convolutions have no padding, as in the paper for 19 x 19 (115,601 parameters for 64
    channels). For smaller maps they have padding 1, as in the paper for 5 x 5. A map of one pixel a side is not pooled.

    A convolution is linear, so the first one is computed once for each class and once for each query, and added for each pair:
    `W [c, q] = W_c c + W_q q`. These are `n_way + Q` convolutions instead of `n_way * Q`. The maximum is taken before the ReLU,
    which gives the same.
    """

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.padding = 0 if min(height, width) >= 10 else 1
        sides = (height, width)
        self.first = nn.Conv2d(2 * channels, 64, 3, padding=self.padding)
        second = nn.Conv2d(64, 64, 3, padding=self.padding)
        layers = []
        for convolution in ([], [second]):
            sides = tuple(side - 2 + 2 * self.padding for side in sides)
            pool = tuple(min(2, side) for side in sides)
            layers += [*convolution, nn.BatchNorm2d(64), nn.MaxPool2d(pool), nn.ReLU(inplace=True)]
            sides = tuple(side // step for side, step in zip(sides, pool, strict=True))
        layers += [nn.Flatten(), nn.Linear(64 * math.prod(sides), 8), nn.ReLU(inplace=True), nn.Linear(8, 1)]
        self.rest = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (9 * module.out_channels)))
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.ones_(module.bias)

    def forward(
        self,
        classes: Float[Tensor, "episode way channels height width"],
        queries: Float[Tensor, "episode query channels height width"],
    ) -> Float[Tensor, "episode query way"]:
        of_class, of_query = self.first.weight.chunk(2, dim=1)
        c = conv2d(classes.flatten(0, 1), of_class, self.first.bias, padding=self.padding)
        q = conv2d(queries.flatten(0, 1), of_query, padding=self.padding)
        c, q = c.unflatten(0, classes.shape[:2]), q.unflatten(0, queries.shape[:2])
        pairs = q[:, :, None] + c[:, None]
        return self.rest(pairs.flatten(0, 2)).unflatten(0, pairs.shape[:3])[..., 0]
