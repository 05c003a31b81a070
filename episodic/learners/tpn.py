"""Transductive Propagation Networks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from episodic.core.functional.graph import gaussian_affinities, keep_nearest, normalized, propagate
from episodic.core.functional.prototypes import one_hot
from episodic.episodes.arguments import integer, number
from episodic.episodes.task import Episode, Task
from episodic.learners.learner import AbstractMetricLearner, Capabilities, map_shape
from episodic.learners.prediction import Prediction


class TPN(AbstractMetricLearner):
    """Spreads the labels of the support to all queries at once, along a graph of both. The length scale of each item is learned.

        e_i = f(x_i) / sigma_i,    W_ij = exp(-mean of (e_i - e_j)^2 over the D features / 2)
        S = D^-1/2 W D^-1/2 of the `neighbors` heaviest edges a row,    F = (I - alpha S)^-1 Y

    Y is one-hot for the support and 0 for the queries; the rows of F are the logits as they are. An item is its own first
    neighbor, and an edge stays if either end keeps it. `sigma_i` is computed from the map of an item: see `LengthScale`.
    The loss is the mean cross-entropy over support and queries.

    Liu, Lee, Park, Kim, Kim, Yang, Yang: *Learning to Propagate Labels: Transductive Propagation Network for Few-shot
    Learning*, ICLR 2019, https://arxiv.org/abs/1805.10002. Transductive: an answer depends on the other queries, on how
    many there are (15 a class in the paper) and on their being balanced. Unlabeled items are left out.

    **Arguments:** `neighbors`: edges that an item keeps, its self-loop included. `alpha`: in [0, 1), how much of a label an item
    passes on.

    **Raises:** `ValueError` for a backbone of vectors, and for invalid settings.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Identity()  # leaves maps as they are
    >>> backbone.shape = (2, 1, 1)
    >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])[..., None, None]
    >>> task = Task(support, torch.tensor([[0, 1]]), query=support[:, [1, 0]], n_way=2)
    >>> TPN(backbone, alpha=0.5).eval()(task).logits.argmax(-1)
    tensor([[1, 0]])
    """

    capabilities = Capabilities(transductive=True)

    def __init__(self, backbone: nn.Module, neighbors: int = 20, alpha: float = 0.99):
        super().__init__()
        self.backbone = backbone
        self.length_scale = LengthScale(*map_shape(backbone, "TPN"))
        self.neighbors = integer("neighbors", neighbors, at_least=1, note=" (an item is its own first)")
        self.alpha = number("alpha", alpha, at_least=0, below=1, note=" (0 spreads nothing)")
        self.without_effect = {} if alpha else {"neighbors": "alpha=0 spreads no label"}

    def classify(self, features: Task) -> Prediction:
        maps = torch.cat([features.support, features.query], dim=1)
        sigma = self.length_scale(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        scaled = maps.flatten(2) / sigma[..., None]
        weights = gaussian_affinities(scaled, gamma=0.5 / scaled.shape[-1])
        graph = normalized(keep_nearest(weights, self.neighbors))
        n_support, n_query = features.support.shape[1], features.query.shape[1]
        known = nn.functional.pad(one_hot(features.support_y, features.n_way), (0, 0, 0, n_query))
        scores = propagate(graph, known, self.alpha)

        def loss(episode: Episode) -> Float[Tensor, " episode"]:
            labels = torch.cat([features.support_y, episode.query_y], dim=1)
            return cross_entropy(scores.mT, labels, reduction="none").mean(-1)

        return Prediction(scores[:, n_support:], loss)


class LengthScale(nn.Module):
    """Computes the length scale `sigma > 0` of each item. Its layers are two blocks of convolution, batch norm, ReLU and 2x2
    max-pooling (padding 1), of 64 channels and of 1, then linear layers to 8 and to 1. Maps of any size; 37,684 parameters for
    (64, 5, 5).

    Departure: `sigma = softplus(g - 2) + 1e-6`, where the released code takes g, the last layer's output, as it is: an item
    whose g is negative is then mirrored at the origin, away from equal items whose g is positive, and g = 0 divides by 0.
    The softplus leaves every positive scale open and flattens towards 0. The shift starts all items near 0.13, where
    training of a Conv4 stays: at larger scales all edges are about equal, and alpha = 0.99 spreads every label everywhere.
    """

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        pooled = (height // 2 + 1) // 2 + 1, (width // 2 + 1) // 2 + 1
        self.layers = nn.Sequential(
            *[nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2, padding=1)],
            *[nn.Conv2d(64, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d(2, padding=1)],
            *[nn.Flatten(), nn.Linear(pooled[0] * pooled[1], 8), nn.ReLU(), nn.Linear(8, 1)],
        )

    def forward(self, maps: Float[Tensor, "item channels height width"]) -> Float[Tensor, " item"]:
        return softplus(self.layers(maps)[:, 0] - 2) + 1e-6
