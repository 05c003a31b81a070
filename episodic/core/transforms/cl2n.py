"""Centered, then unit length: SimpleShot's CL2N."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from episodic.core.transforms.transform import AbstractCentered


class CL2N(AbstractCentered):
    """Embeddings less their mean over the training images, at length 1. Pretrained features, which all lie in one cone, spread over
    all directions.

        (f(x) - m) / ||f(x) - m||

    Wang, Chao, Weinberger, van der Maaten: *SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning*, 2019,
    https://arxiv.org/abs/1911.04623. There it is for evaluation; departure: it can be in training too, where m is the mean of the
    batch. A vector of length 0 stays 0.

    >>> import torch
    >>> from episodic.core.backbones.conv4 import Conv4
    >>> transform = CL2N(Conv4(in_channels=1, image_size=28))
    >>> transform(torch.rand(5, 1, 28, 28)).norm(dim=1).detach()
    tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """

    unit_length = True

    def change(self, features: Float[Tensor, "item dim ..."]) -> Float[Tensor, "item dim ..."]:
        return normalize(self.centered(features), dim=1)
