"""An upper bound on the triplet loss in linear time: distances to one fixed centroid of each class."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import euclidean, unit
from episodic.core.losses.loss import AbstractLoss

POINTS = 5  # random points for each centroid
ROUNDS = 5  # of K-means
BLOCK = 4096  # points compared with all centroids at once


class UpperBound(AbstractLoss):
    """Pulls each item to a fixed centroid of its class and pushes it from those of the others. The time is linear in the number of
    items, where triplets take its cube. For unit vectors x and C centroids c, the mean over the batch of

        L = ||x - c_y|| - 1 / (3 (C - 1)) sum_{c != c_y} ||x - c||

    By the triangle inequality the sum of `d(anchor, positive) - d(anchor, negative)` over all triplets of a set with n items of
    each class is at most `3 (C - 1) (n - 1) n` times the sum of L, wherever the centroids lie. This does not hold for squared
    distances. The centroids are buffers and are never learned: the unit vectors of the axes where there are enough of them, else
    the means of K-means on random points of the unit sphere, the same in each run. The loss may be negative.

    Do, Tran, Reid, Kumar, Hoang, Carneiro: *A Theoretically Sound Upper Bound on the Triplet Loss for Improving the Efficiency of
    Deep Distance Metric Learning*, CVPR 2019,
    https://openaccess.thecvf.com/content_CVPR_2019/html/Do_A_Theoretically_Sound_Upper_Bound_on_the_Triplet_Loss_for_CVPR_2019_paper.html.

    **Departures:** the factor `3 (C - 1) (n - 1) n` is left out. The means of K-means are brought to length 1.

    **Arguments:** `dim`: of embeddings. `n_classes`: C.

    >>> UpperBound(dim=2, n_classes=2)(torch.tensor([[3.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1]))
    tensor(-0.0685)
    """

    centroids: Float[Tensor, "centroid dim"]

    def __init__(self, dim: int, n_classes: int):
        super().__init__()
        if min(dim, n_classes) < 2:
            raise ValueError(f"at least 2 dimensions and 2 classes are needed, got {dim} and {n_classes}")
        self.dim = dim
        self.n_classes = n_classes
        self.register_buffer(
            "centroids", torch.eye(n_classes, dim) if dim >= n_classes else separated_centroids(dim, n_classes)
        )

    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        with torch.autocast(embeddings.device.type, enabled=False):
            x = unit(embeddings)
            distances = euclidean(x, self.centroids.to(x.dtype))
            own = distances.gather(1, labels[:, None]).squeeze(1)
            others = (distances.sum(1) - own) / (self.n_classes - 1)
            return (own - others / 3).sum() / max(len(labels), 1)


def separated_centroids(dim: int, n: int) -> Float[Tensor, "centroid dim"]:
    """`n` unit vectors that are far from each other, by K-means with cosines. A centroid that is nearest to no point stays."""
    generator = torch.Generator().manual_seed(0)
    points = unit(torch.randn(POINTS * n, dim, generator=generator, device="cpu"))
    centroids = points[:n]
    for _ in range(ROUNDS):
        nearest = torch.cat([(block @ centroids.mT).argmax(1) for block in points.split(BLOCK)])
        sums = torch.zeros_like(centroids).index_add(0, nearest, points)
        centroids = torch.where(sums.any(1, keepdim=True), unit(sums), centroids)
    return centroids
