"""Cosine of the angle between two vectors."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import cosine, unit


class Cosine(AbstractDistance):
    """The cosine of the angle between two vectors, whatever their lengths. A zero vector has cosine 0 with everything.

        s(x, y) = x . y / (||x|| ||y||),    d(x, y) = 1 - s(x, y)

    >>> import torch
    >>> Cosine().matrix(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0]]))
    tensor([[1., 0.]])
    """

    larger_is_closer = True
    ignores_length = True
    degree = 0

    def matrix(self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
        return cosine(x, y)

    def flip(self, matrix: Tensor) -> Tensor:
        return 1 - matrix

    def to_euclidean(self, distances: Tensor) -> Tensor:
        return (2 * distances).clamp(min=0).sqrt()

    def points(self, x: Tensor) -> Tensor:
        return unit(x)
