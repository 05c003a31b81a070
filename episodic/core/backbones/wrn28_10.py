"""WRN-28-10, the large backbone of few-shot learning."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.backbones._output import (
    Output,
    check_images,
    checked_input,
    embed,
    embedding_shape,
)
from episodic.episodes.arguments import choice, number

Variant = Literal["feat", "s2m2"]
WIDTHS = (160, 320, 640)
BLOCKS = 4  # (28 - 4) / 6 of them in each group


class WRN28_10(nn.Module):
    """A wide residual network of 28 layers. A 3x3 convolution to 16 channels comes first, then twelve pre-activation blocks.

    They stand in three groups of four, 160, 320 and 640 wide, the last two at stride 2; batch norm and ReLU end the
    network. A block adds conv(relu(bn(conv(relu(bn(x)))))), with dropout inside, to x, or to a 1x1 convolution of it
    where the width changes. Source: Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146, in two variants:

    - `"feat"` (also learn2learn's): convolutions with bias, stride in the second convolution of a block, dropout after
      the first, projection of x as it is; PyTorch's initialization; made for 84 pixels. 36,482,880 parameters.
      Ye et al., 2020, https://arxiv.org/abs/1812.03664.
    - `"s2m2"`: no bias, stride in the first convolution, dropout before the second, projection of relu(bn(x)); weights
      start from N(0, 2 / (k^2 * channels out)); made for 80 and 32 pixels. 36,472,784 parameters.
      Mangla et al., 2020, https://arxiv.org/abs/1907.12087.

    Departures: FEAT's average has a window of 21 and so serves 84 pixels only; here it is global. Its last batch norm
    has a momentum of 0.9, so that running statistics are nearly those of the last batch; here it is PyTorch's 0.1.

    **Arguments:**

    - `in_channels`, `image_size`: of the square images.
    - `variant`: see above.
    - `drop_rate`: of the dropout in each block, 0.5 in the code of both papers.
    - `output`: `"vector"`, the average over the map, or `"map"`.

    `shape` is that of one embedding: `(640,)`; as a map `(640, 21, 21)` for 84 pixels, `(640, 8, 8)` for 32.

    >>> import torch
    >>> with torch.device("meta"):  # without memory for its 36 million parameters
    ...     backbone = WRN28_10(image_size=32)
    >>> backbone.shape
    (640,)
    """

    shape: tuple[int, ...]

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 84,
        variant: Variant = "feat",
        drop_rate: float = 0.5,
        output: Output = "vector",
    ) -> None:
        super().__init__()
        variant = choice("variant", variant, Variant)
        output = choice("output", output, Output)
        drop_rate = number("drop_rate", drop_rate, at_least=0, below=1, note=" (0 drops nothing)")
        in_channels, image_size = checked_input("WRN28_10", in_channels, image_size)
        self.in_channels, self.image_size = in_channels, image_size
        self.output = "average" if output == "vector" else "map"
        self.shape = embedding_shape(WIDTHS[-1], -(-image_size // 4), self.output)
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=variant == "feat")
        groups = []
        for dim_in, dim in zip((16, *WIDTHS), WIDTHS, strict=False):
            blocks = [_Block(dim_in, dim, 1 if dim == WIDTHS[0] else 2, variant, drop_rate)]
            blocks += [_Block(dim, dim, 1, variant, drop_rate) for _ in range(BLOCKS - 1)]
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.end = nn.Sequential(nn.BatchNorm2d(WIDTHS[-1]), nn.ReLU(inplace=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and variant == "s2m2":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "item channels height width"]) -> Float[Tensor, "item ..."]:
        check_images(images, self.in_channels, self.image_size)
        return embed(self.end(self.groups(self.stem(images))), self.output)


class _Block(nn.Module):
    def __init__(self, dim_in: int, dim: int, stride: int, variant: str, drop_rate: float) -> None:
        super().__init__()
        feat = variant == "feat"
        self.activate = nn.Sequential(nn.BatchNorm2d(dim_in), nn.ReLU(inplace=True))
        first = nn.Conv2d(dim_in, dim, 3, 1 if feat else stride, padding=1, bias=feat)
        second = nn.Conv2d(dim, dim, 3, stride if feat else 1, padding=1, bias=feat)
        middle = [nn.BatchNorm2d(dim), nn.ReLU(inplace=True)]
        middle.insert(0 if feat else 2, nn.Dropout(drop_rate))
        self.residual = nn.Sequential(first, *middle, second)
        self.project = nn.Identity() if dim_in == dim else nn.Conv2d(dim_in, dim, 1, stride, bias=feat)
        self.project_activated = dim_in != dim and not feat

    def forward(self, x: Float[Tensor, "item dim_in height width"]) -> Float[Tensor, "item dim_out ..."]:
        activated = self.activate(x)
        return self.residual(activated) + self.project(activated if self.project_activated else x)
