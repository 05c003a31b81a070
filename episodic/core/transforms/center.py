"""Centered on the training features."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from episodic.core.transforms.transform import AbstractCentered


class Center(AbstractCentered):
    """Embeddings less their mean over the training images. It changes cosines, which are those of directions from the origin, and
    no distance between two embeddings.

        f(x) - m

    In training m is the mean of the batch.

    >>> import torch
    >>> from episodic.core.backbones.conv4 import Conv4
    >>> transform = Center(Conv4(in_channels=1, image_size=28))
    >>> bool(transform(torch.rand(5, 1, 28, 28)).mean(0).abs().max() < 1e-6)
    True
    """

    def change(self, features: Float[Tensor, "item dim ..."]) -> Float[Tensor, "item dim ..."]:
        return self.centered(features)
