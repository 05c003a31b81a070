"""What the backbones share: checks of their arguments, and the last step from a map to an embedding."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from episodic.episodes.arguments import integer

Output = Literal["vector", "map"]


def checked_input(backbone: str, in_channels: int, image_size: int, smallest: int = 1) -> tuple[int, int]:
    """`in_channels` and `image_size`. Images that `backbone` cannot be built for are refused: those without channels, or of fewer
    than `smallest` pixels a side.
    """
    in_channels = integer("in_channels", in_channels, at_least=1, note=" (3 for color, 1 for gray images)")
    image_size = integer("image_size", image_size)
    if image_size < smallest:
        raise ValueError(
            f"{backbone} needs image_size of at least {smallest}, or its pooling leaves nothing, got {image_size}; "
            "resize the images or take a backbone that pools less"
        )
    return in_channels, image_size


def check_images(images: Float[Tensor, "item channels height width"], in_channels: int, image_size: int) -> None:
    """Refuse images of another shape than the backbone was built for, because its `shape` would be wrong for them."""
    if images.shape[1:] != (in_channels, image_size, image_size):
        raise ValueError(
            f"this backbone was built for images [item, {in_channels}, {image_size}, {image_size}], got "
            f"{list(images.shape)}; build it with the in_channels and image_size of the data, or resize the images"
        )


def embedding_shape(dim: int, side: int, output: str) -> tuple[int, ...]:
    """The shape of one item that `embed` makes of a map `[dim, side, side]`."""
    return {"average": (dim,), "flatten": (dim * side * side,), "map": (dim, side, side)}[output]


def embed(features: Float[Tensor, "item dim height width"], output: str) -> Float[Tensor, "item ..."]:
    """A map averaged over its pixels (`"average"`), in one row (`"flatten"`) or as it is (`"map"`)."""
    if output == "average":
        return features.mean((2, 3))
    return features.flatten(1) if output == "flatten" else features
