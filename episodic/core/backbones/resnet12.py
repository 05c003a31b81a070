"""ResNet-12, in the two variants that most few-shot papers use, and the DropBlock that one of them is trained with."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.backbones._output import (
    check_images,
    checked_input,
    embed,
    embedding_shape,
)
from episodic.episodes.arguments import choice, integer, number

Variant = Literal["metaoptnet", "can"]
Output = Literal["vector", "flatten", "map"]
WIDTHS = {"metaoptnet": (64, 160, 320, 640), "can": (64, 128, 256, 512)}


class DropBlock(nn.Module):
    """Dropout of square blocks of a map, at a rate that rises linearly. Neighboring pixels are alike, so dropping single pixels
    would hide little.

    A seed falls on each of the `(f - b + 1)^2` places of a map of side f where a block of side b fits, independently by
    channel, with probability

        gamma = rate(t) / b^2 * f^2 / (f - b + 1)^2,    rate(t) = rate * min(t / ramp, 1),

    the block reaches right and down from its seed, and what is left is scaled by (all / left) over the whole tensor.
    In eval mode it is the identity.

    Source: Ghiasi, Lin and Le, 2018, https://arxiv.org/abs/1810.12890, with the ramp of MetaOptNet's code.

    Departures: t counts calls in training mode only and is a buffer, so it is in the state dict and a resumed run is
    exact; MetaOptNet's code also counts evaluation and forgets t with the process, so its full rate comes after about 6,700 of its
    60,000 steps, not after its 40,000 calls. A map smaller than the block is
    dropped whole (b = f), where the code fails.

    >>> drop = DropBlock(rate=0.1, block_size=2, ramp=1).eval()
    >>> drop(torch.ones(1, 1, 2, 2)).sum()
    tensor(4.)
    """

    calls: Tensor

    def __init__(self, rate: float, block_size: int, ramp: int) -> None:
        super().__init__()
        self.rate, self.block_size, self.ramp = rate, block_size, ramp
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def gamma(self, side: int) -> Float[Tensor, ""]:
        """The probability of a seed on maps of side `side`; a tensor, as reading `calls` would stall the device."""
        block = min(self.block_size, side)
        return self.rate * (self.calls / self.ramp).clamp(max=1) * (side / (block * (side - block + 1))) ** 2

    def forward(self, x: Float[Tensor, "item dim side side"]) -> Float[Tensor, "item dim side side"]:
        if not self.training or self.rate == 0:
            return x
        self.calls += 1
        side = x.shape[-1]
        places = side - min(self.block_size, side) + 1
        # In float32 under autocast too: bfloat16 draws come in steps of 1/256, about the size of gamma.
        draws = torch.rand(*x.shape[:2], places, places, device=x.device)
        left = keep_mask((draws < self.gamma(side)).float(), side - places + 1)
        return x * (left * (left.numel() / left.sum().clamp(min=1))).to(x.dtype)


def keep_mask(
    seeds: Float[Tensor, "item dim places places"], block: int
) -> Float[Tensor, "item dim places+{block}-1 places+{block}-1"]:
    """1 for the pixels that stay, 0 for those of a block. A block of side `block` reaches right and down from its seed."""
    return 1 - F.max_pool2d(F.pad(seeds, [block - 1] * 4), block, stride=1)


class ResNet12(nn.Module):
    """The usual large network of few-shot learning: four residual blocks of three 3x3 convolutions. Each block halves the map.

    A block is activation(bn(conv), twice; then bn(conv) + bn(1x1 conv of the input)), without biases. The variants:

    - `"metaoptnet"` (also FEAT's and RFS'): widths 64-160-320-640, LeakyReLU 0.1, max-pool after each block; dropout
      after blocks 1 and 2, DropBlock after 3 and 4, with blocks of 5 pixels, or 2 for images of at most 32.
      12,424,320 parameters. Lee et al., 2019, https://arxiv.org/abs/1904.03758; Ye et al., 2020,
      https://arxiv.org/abs/1812.03664.
    - `"can"`: a stem of convolution, batch norm and ReLU to 64 channels; widths 64-128-256-512, ReLU, stride 2 in the
      second convolution and in the shortcut, no dropout. 8,037,696 parameters. Hou et al., 2019,
      https://arxiv.org/abs/1910.07677.

    Convolutions start from N(0, 2 / (k^2 * channels out)) in both: MetaOptNet's Kaiming initialization leaves the slope
    at 0, which makes it the same.

    Departures: DropBlock's counter (see there). FEAT's average has a window of 5 and so serves 84 pixels only; here it
    is global. The maximum is taken before the LeakyReLU, which changes neither values nor gradients.

    **Arguments:**

    - `in_channels`, `image_size`: of the square images.
    - `variant`: see above.
    - `drop_rate`: of dropout and DropBlock in variant `"metaoptnet"`; `"can"` has none.
    - `steps`: of the training that it is for. DropBlock has its full rate after a ninth of them, as in MetaOptNet.
    - `output`: `"vector"`, the average over the map; `"flatten"`, the whole map in a row (MetaOptNet's own use);
      `"map"`.

    `shape` is that of one embedding. For 84 pixels: `(640,)`, `(16000,)` or `(640, 5, 5)`; `(512,)`, `(18432,)` or
    `(512, 6, 6)` in variant `"can"`.

    >>> backbone = ResNet12(image_size=32)
    >>> backbone.shape, backbone(torch.rand(2, 3, 32, 32)).shape
    ((640,), torch.Size([2, 640]))
    """

    shape: tuple[int, ...]

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 84,
        variant: Variant = "metaoptnet",
        drop_rate: float = 0.1,
        steps: int = 60_000,
        output: Output = "vector",
    ) -> None:
        super().__init__()
        variant = choice("variant", variant, Variant)
        output = choice("output", output, Output)
        drop_rate = number("drop_rate", drop_rate, at_least=0, below=1, note=" (0 drops nothing)")
        ramp = max(1, integer("steps", steps, at_least=1) // 9)
        pools = variant == "metaoptnet"
        in_channels, image_size = checked_input("ResNet12", in_channels, image_size, smallest=16 if pools else 1)
        self.in_channels, self.image_size = in_channels, image_size
        self.output = "average" if output == "vector" else output
        widths = WIDTHS[variant]
        side = image_size // 16 if pools else -(-image_size // 16)  # a stride of 2 rounds up, pooling rounds down
        self.shape = embedding_shape(widths[-1], side, self.output)
        block_size = 2 if image_size <= 32 else 5
        if pools:
            self.stem = nn.Identity()
            drops = [nn.Dropout(drop_rate) for _ in range(2)] + [
                DropBlock(drop_rate, block_size, ramp) for _ in range(2)
            ]
        else:
            self.stem = nn.Sequential(_conv3x3(in_channels, 64), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
            drops = [nn.Identity() for _ in range(4)]
        dims_in = (in_channels if pools else 64, *widths)
        blocks = (_Block(*arguments, pools) for arguments in zip(dims_in, widths, drops, strict=False))
        self.blocks = nn.Sequential(*blocks)
        idle = "nothing is dropped (backbone.drop_rate=0)" if pools else "the variant can has no dropout"
        settings = ("steps",) if pools else ("drop_rate", "steps")
        self.without_effect = dict.fromkeys(settings, idle) if drop_rate == 0 or not pools else {}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "item channels height width"]) -> Float[Tensor, "item ..."]:
        check_images(images, self.in_channels, self.image_size)
        return embed(self.blocks(self.stem(images)), self.output)


class _Block(nn.Module):
    def __init__(self, dim_in: int, dim: int, drop: nn.Module, pools: bool) -> None:
        super().__init__()
        stride = 1 if pools else 2
        self.activation = nn.LeakyReLU(0.1, inplace=True) if pools else nn.ReLU(inplace=True)
        self.residual = nn.Sequential(
            _conv3x3(dim_in, dim),
            nn.BatchNorm2d(dim),
            self.activation,
            _conv3x3(dim, dim, stride),
            nn.BatchNorm2d(dim),
            self.activation,
            _conv3x3(dim, dim),
            nn.BatchNorm2d(dim),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(dim_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))
        self.pool = nn.MaxPool2d(2) if pools else nn.Identity()
        self.drop = drop

    def forward(self, x: Float[Tensor, "item dim_in height width"]) -> Float[Tensor, "item dim_out ..."]:
        return self.drop(self.activation(self.pool(self.residual(x) + self.shortcut(x))))


def _conv3x3(dim_in: int, dim: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(dim_in, dim, 3, stride, padding=1, bias=False)
