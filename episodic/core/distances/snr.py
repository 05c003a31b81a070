"""Signal-to-noise ratio."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import squared_euclidean, upcast_both

SMALLEST_VARIANCE = 1e-8  # of an anchor's coordinates


class SNR(AbstractDistance):
    """The variance of the difference of two vectors, relative to the variance of the first. It is not symmetric: x is the anchor.

        d(x, y) = var(y - x) / var(x),    the variances over the coordinates

    That is one over the signal-to-noise ratio. On unit vectors with coordinates of mean 0 it is the squared Euclidean
    distance, so give it embeddings as they are (`normalize: false` in a loss).

    Yuan, Deng, Tang, Tang, Chen: *Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1904.02616.

    >>> import torch
    >>> SNR().matrix(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, -2.0]]))
    tensor([[1.]])
    """

    degree = 0

    def matrix(self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
        x, y = upcast_both(x, y)
        centered = x - x.mean(-1, keepdim=True)
        other = centered if x is y else y - y.mean(-1, keepdim=True)
        signal = centered.square().mean(-1, keepdim=True).clamp(min=SMALLEST_VARIANCE)
        return squared_euclidean(centered, other) / x.shape[-1] / signal

    def flip(self, matrix: Tensor) -> Tensor:
        return -matrix

    def to_euclidean(self, distances: Tensor) -> None:
        return None

    def points(self, x: Tensor) -> None:
        return None
