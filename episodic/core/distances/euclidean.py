"""Euclidean distance."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import euclidean, upcast


class Euclidean(AbstractDistance):
    """The length of the straight line between two points. It has no gradient where the points coincide.

        d(x, y) = ||x - y||

    >>> import torch
    >>> Euclidean().matrix(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """

    degree = 1

    def matrix(self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
        return euclidean(x, y)

    def flip(self, matrix: Tensor) -> Tensor:
        return -matrix

    def to_euclidean(self, distances: Tensor) -> Tensor:
        return distances

    def points(self, x: Tensor) -> Tensor:
        return upcast(x)
