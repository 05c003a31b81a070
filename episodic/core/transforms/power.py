"""A power of each entry, then centered, then unit length."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.transforms.cl2n import CL2N
from episodic.episodes.arguments import number

SMALLEST = 1e-6  # keeps the slope of a power finite at 0


class Power(CL2N):
    """Embeddings whose entries are raised to a power, less their mean over the training images, at length 1. After a ReLU most
    entries are near 0 and a few are large; a root brings them nearer to a normal distribution.

        p(x) = sign(f(x)) (|f(x)| + 1e-6)^exponent,    (p(x) - m) / ||p(x) - m||

    The power is that of Hu, Gripon, Pateux: *Leveraging the Feature Distribution in Transfer-based Few-Shot Learning*, ICANN 2021,
    https://arxiv.org/abs/2006.03806, for features that are not negative; the rest is `cl2n`. Departures: entries below 0 keep their
    sign; m is the mean of training images, in training that of the batch.

    **Arguments:** `exponent` (default 0.5, the paper's): above 0, below 1.

    >>> import torch
    >>> from episodic.core.backbones.conv4 import Conv4
    >>> transform = Power(Conv4(in_channels=1, image_size=28))
    >>> transform(torch.rand(5, 1, 28, 28)).norm(dim=1).detach()
    tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """

    def __init__(self, backbone: nn.Module, exponent: float = 0.5):
        super().__init__(backbone)
        self.exponent = number("exponent", exponent, above=0, below=1)

    def before_mean(self, features: Float[Tensor, "item dim ..."]) -> Float[Tensor, "item dim ..."]:
        return features.sign() * (features.abs() + SMALLEST) ** self.exponent
