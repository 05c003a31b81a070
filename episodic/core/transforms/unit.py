"""Unit length."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from episodic.core.transforms.transform import AbstractTransform


class Unit(AbstractTransform):
    """Embeddings of length 1. Distances then depend on directions alone, `||x - y||^2 = 2 - 2 cos(x, y)`, and are at most 4.

        f(x) / ||f(x)||

    It is the L2N of Wang, Chao, Weinberger, van der Maaten: *SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot
    Learning*, 2019, https://arxiv.org/abs/1911.04623. A vector of length 0 stays 0.

    >>> import torch
    >>> from torch import nn
    >>> Unit(nn.Flatten())(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """

    unit_length = True

    def change(self, features: Float[Tensor, "item dim ..."]) -> Float[Tensor, "item dim ..."]:
        return normalize(features, dim=1)
