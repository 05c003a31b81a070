"""ResNet-18, for small images and in its original variant."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.backbones._output import Output, check_images, checked_input, embed, embedding_shape
from episodic.episodes.arguments import choice

Variant = Literal["feat", "closerlook"]
WIDTHS = (64, 128, 256, 512)


class ResNet18(nn.Module):
    """A residual network of eight basic blocks of two 3x3 convolutions. They stand in four stages, 64-128-256-512 wide, the last
    three at stride 2.

    The shortcut is a 1x1 convolution with batch norm where the width changes, else the identity; no convolution has a
    bias. The variants differ in the stem only:

    - `"feat"`: 3x3 convolution, batch norm, ReLU, so that 84 pixels go 84-42-21-11. 11,168,832 parameters.
      Ye et al., 2020, https://arxiv.org/abs/1812.03664.
    - `"closerlook"`, the original one of He et al., 2016, for 224 pixels: 7x7 convolution at stride 2, batch norm,
      ReLU, 3x3 max-pool at stride 2. 11,176,512 parameters. Chen et al., 2019, https://arxiv.org/abs/1904.04232.

    Convolutions start from N(0, 2 / (k^2 * channels out)) in both.

    Departures: both end in a global (adaptive) average; the code of "A Closer Look" has a window of 7, the same for 224
    pixels and a failure for 84.

    **Arguments:**

    - `in_channels`, `image_size`: of the square images.
    - `variant`: see above.
    - `output`: `"vector"`, the average over the map, or `"map"`.

    `shape` is that of one embedding: `(512,)`; as a map `(512, 11, 11)` for 84 pixels in variant `"feat"`, `(512, 7, 7)`
    for 224 in variant `"closerlook"`.

    >>> import torch
    >>> backbone = ResNet18(image_size=32)
    >>> backbone.shape, backbone(torch.rand(2, 3, 32, 32)).shape
    ((512,), torch.Size([2, 512]))
    """

    shape: tuple[int, ...]

    def __init__(
        self, in_channels: int = 3, image_size: int = 84, variant: Variant = "feat", output: Output = "vector"
    ) -> None:
        super().__init__()
        variant = choice("variant", variant, Variant)
        output = choice("output", output, Output)
        in_channels, image_size = checked_input("ResNet18", in_channels, image_size)
        self.in_channels, self.image_size = in_channels, image_size
        self.output = "average" if output == "vector" else "map"
        reduction = 8 if variant == "feat" else 32
        self.shape = embedding_shape(WIDTHS[-1], -(-image_size // reduction), self.output)
        if variant == "feat":
            first, pool = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), nn.Identity()
        else:
            first = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            pool = nn.MaxPool2d(3, stride=2, padding=1)
        # The maximum and the ReLU commute; in this order the ReLU sees a quarter of the pixels.
        self.stem = nn.Sequential(first, nn.BatchNorm2d(64), pool, nn.ReLU(inplace=True))
        self.stages = nn.Sequential(
            *(
                nn.Sequential(_Block(dim_in, dim), _Block(dim, dim))
                for dim_in, dim in zip((64, *WIDTHS), WIDTHS, strict=False)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "item channels height width"]) -> Float[Tensor, "item ..."]:
        check_images(images, self.in_channels, self.image_size)
        return embed(self.stages(self.stem(images)), self.output)


class _Block(nn.Module):
    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        stride = 1 if dim_in == dim else 2
        self.residual = nn.Sequential(
            nn.Conv2d(dim_in, dim, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(dim),
        )
        self.shortcut = (
            nn.Identity()
            if dim_in == dim
            else nn.Sequential(nn.Conv2d(dim_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "item dim_in height width"]) -> Float[Tensor, "item dim_out ..."]:
        return self.activation(self.residual(x) + self.shortcut(x))
