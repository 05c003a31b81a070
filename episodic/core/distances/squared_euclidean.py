"""Squared Euclidean distance."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import squared_euclidean, upcast


class SquaredEuclidean(AbstractDistance):
    """The squared length of the straight line between two points. Its gradient is smooth everywhere.

        d(x, y) = ||x - y||^2

    It is the Bregman divergence whose best center is the mean, which is why Prototypical Networks (Snell et al., 2017,
    https://arxiv.org/abs/1703.05175) compare with it.

    >>> import torch
    >>> SquaredEuclidean().matrix(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """

    degree = 2

    def matrix(self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
        return squared_euclidean(x, y)

    def flip(self, matrix: Tensor) -> Tensor:
        return -matrix

    def to_euclidean(self, distances: Tensor) -> Tensor:
        return distances.clamp(min=0).sqrt()

    def points(self, x: Tensor) -> Tensor:
        return upcast(x)
