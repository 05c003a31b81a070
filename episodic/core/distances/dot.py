"""Inner product."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import dot


class Dot(AbstractDistance):
    """The inner product of two vectors, so long vectors are similar to many others. It cannot be read as a distance.

        s(x, y) = x . y

    >>> import torch
    >>> Dot().matrix(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """

    larger_is_closer = True
    degree = 2
    has_distances = False

    def matrix(self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
        return dot(x, y)

    def flip(self, matrix: Tensor) -> Tensor:
        return -matrix

    def to_euclidean(self, distances: Tensor) -> None:
        return None

    def points(self, x: Tensor) -> None:
        return None
