"""Conv4: four convolutional blocks, the small backbone of few-shot learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.backbones._output import check_images, checked_input, embed, embedding_shape
from episodic.episodes.arguments import choice, flag, integer, integers, refuse

Output = Literal["vector", "average", "map"]


class Conv4(nn.Module):
    """The small network of few-shot learning: four equal blocks of 3x3 convolution, batch norm, 2x2 max-pooling and ReLU. Its
    embedding is the last map in one row.

    Source: Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", 2017,
    https://arxiv.org/abs/1703.05175, after Vinyals et al., 2016, https://arxiv.org/abs/1606.04080.
    Parameters: 113,088 (111,936 for one channel; 112,832 without bias). Weights start as PyTorch's defaults, as in the
    code of the paper.

    Departures: the maximum is taken before the ReLU. Both are monotone, so values and gradients are the same, and the
    ReLU sees a quarter of the pixels.

    **Arguments:**

    - `in_channels`, `image_size`: of the square images.
    - `widths`: channels of each block, one block a number. "Conv4-512" is not one network in the literature: both
      64-64-64-512 and 96-128-256-512 go by that name.
    - `bias`: of the convolutions; redundant before batch norm, but in the published network.
    - `output`: `"vector"`, the flattened map, `"average"` over its pixels, or `"map"`.
    - `last_relu`: whether the last block ends in a ReLU, as published. Without it embeddings have entries below 0 too (Gidaris,
      Komodakis: *Dynamic Few-Shot Visual Learning without Forgetting*, CVPR 2018, https://arxiv.org/abs/1804.09458).
    - `pools`: how many blocks, from the first, end in max-pooling. None: all of them; with `output="map"` only those that have
      at least 10 pixels a side to pool, so that small images keep a map of several pixels, and 84 pixels give the published one.
    - `unpadded`: how many convolutions, from the first, have no padding. Relation Networks (Sung et al., 2018) take
      `pools=2`, `unpadded=2`: a map of 19 x 19 for 84 pixels, 5 x 5 for 28.
    - `pool_first`: whether a block pools before its batch norm, which then sees a quarter of the pixels and takes its mean and
      variance from their maxima. Not as published, and faster.

    `shape` is that of one embedding: `(1600,)` or `(64, 5, 5)` for 84 pixels, `(256,)` or `(64, 8, 8)` for 32, `(64,)` or
    `(64, 7, 7)` for 28.

    >>> import torch
    >>> backbone = Conv4(in_channels=1, image_size=28)
    >>> backbone.shape, backbone(torch.rand(2, 1, 28, 28)).shape
    ((64,), torch.Size([2, 64]))
    """

    shape: tuple[int, ...]

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 84,
        widths: Sequence[int] = (64, 64, 64, 64),
        bias: bool = True,
        output: Output = "vector",
        pools: int | None = None,
        unpadded: int = 0,
        last_relu: bool = True,
        pool_first: bool = False,
    ) -> None:
        super().__init__()
        output = choice("output", output, Output)
        last_relu, pool_first = flag("last_relu", last_relu), flag("pool_first", pool_first)
        widths, bias = integers("widths", widths, at_least=1).tolist(), flag("bias", bias)
        if not widths:
            refuse("widths", "a number of channels for each block, at least one", widths)
        blocks = {"at_least": 0, "below": len(widths) + 1, "note": f" ({len(widths)} blocks)"}
        pools = None if pools is None else integer("pools", pools, **blocks)
        unpadded = integer("unpadded", unpadded, **blocks)
        sure = pools if pools is not None else len(widths) if output != "map" else 0
        smallest = 1
        for block in reversed(range(len(widths))):
            smallest = smallest * (2 if block < sure else 1) + 2 * (block < unpadded)
        in_channels, image_size = checked_input("Conv4", in_channels, image_size, smallest=smallest)
        self.in_channels, self.image_size = in_channels, image_size
        self.output = "flatten" if output == "vector" else output
        self.blocks, side = nn.Sequential(), image_size
        for block, (dim_in, dim) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            padding = int(block >= unpadded)
            side -= 2 - 2 * padding
            pooled = block < sure or (pools is None and side >= 10)
            conv, norm = nn.Conv2d(dim_in, dim, 3, padding=padding, bias=bias), nn.BatchNorm2d(dim)
            pool = [nn.MaxPool2d(2)] * pooled
            normed = [*pool, norm] if pool_first else [norm, *pool]
            relu = [nn.ReLU(inplace=True)] * (last_relu or block < len(widths) - 1)
            self.blocks.append(nn.Sequential(conv, *normed, *relu))
            side = side // 2 if pooled else side
        self.shape = embedding_shape(widths[-1], side, self.output)

    def forward(self, images: Float[Tensor, "item channels height width"]) -> Float[Tensor, "item ..."]:
        check_images(images, self.in_channels, self.image_size)
        return embed(self.blocks(images), self.output)
