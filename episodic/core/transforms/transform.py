"""What a transform is: a backbone whose embeddings are changed before anything compares them."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn


def no_transform(backbone: nn.Module) -> nn.Module:
    """The backbone as it is, without a transform.

    >>> from episodic.core.backbones.conv4 import Conv4
    >>> no_transform(Conv4(in_channels=1, image_size=28)).shape
    (64,)
    """
    return backbone


class AbstractTransform(nn.Module, abc.ABC):
    """A backbone whose embeddings are transformed. Learners, wrappers, losses, retrieval and predictions see those embeddings
    alone, in training and in evaluation.

    `squared_length` is that of every embedding, where all have the same; None where they have not.

    Vectors `[D]` are transformed as a whole, and maps `[D, H, W]` position by position. `shape` stays that of the backbone.
    Subclasses write `change`.

    >>> import torch
    >>> class Halved(AbstractTransform):
    ...     def change(self, features):
    ...         return features / 2
    >>> Halved(nn.Flatten())(torch.ones(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    unit_length: ClassVar[bool] = False  # whether transformed vectors have length 1

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.body = backbone
        if hasattr(backbone, "shape"):
            self.shape = tuple(backbone.shape)

    @property
    def squared_length(self) -> float | None:
        """The squared length of each flattened embedding: 1 for each position of a map; None where it is free."""
        return float(math.prod(self.shape[1:])) if self.unit_length else None

    @abc.abstractmethod
    def change(self, features: Float[Tensor, "item dim ..."]) -> Float[Tensor, "item dim ..."]:
        """The transformed `features` of a batch, which are float32."""

    def forward(self, images: Float[Tensor, "item ..."]) -> Float[Tensor, "item ..."]:
        features = self.body(images)
        with torch.autocast(features.device.type, enabled=False):
            return self.change(features.float())


class AbstractCentered(AbstractTransform):
    """A transform that subtracts a mean of features. In training it is the mean of the batch, a constant for the gradient; in
    evaluation it is that of training images, which `fit` was given.

    The mean of a map is that of all its positions, one number a channel. Subclasses write `change` by `centered`.

    >>> import torch
    >>> class Centered(AbstractCentered):
    ...     def change(self, features):
    ...         return self.centered(features)
    >>> from episodic.core.backbones.conv4 import Conv4
    >>> centered = Centered(Conv4(in_channels=1, image_size=28)).eval()
    >>> centered.fit(torch.full((100, 64), 0.25))
    >>> images = torch.rand(2, 1, 28, 28)
    >>> bool((centered(images) == centered.body(images) - 0.25).all())
    True
    """

    def __init__(self, backbone: nn.Module):
        super().__init__(backbone)
        # Until it is fitted, answers are no numbers, which evaluation refuses.
        self.register_buffer("mean", torch.full((backbone.shape[0],), torch.nan))
        self.mean_of_batch: Callable[[Tensor], Tensor] = batch_mean

    def centered(self, features: Float[Tensor, "item dim ..."]) -> Float[Tensor, "item dim ..."]:
        """The features, after `before_mean`, less the mean."""
        features = self.before_mean(features)
        mean = self.mean_of_batch(features.detach()) if self.training else self.mean
        return features - mean.view(-1, *[1] * (features.ndim - 2))

    def before_mean(self, features: Float[Tensor, "item dim ..."]) -> Float[Tensor, "item dim ..."]:
        """Hook: what is done to features before the mean is subtracted. By default nothing."""
        return features

    def fit(self, features: Float[Tensor, "item dim ..."]) -> None:
        """Take the mean of training features, as the backbone gives them."""
        self.mean.copy_(batch_mean(self.before_mean(features.float())))


def batch_mean(features: Float[Tensor, "item dim ..."]) -> Float[Tensor, " dim"]:
    """The mean of each channel, over items and positions.

    >>> batch_mean(torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
    tensor([2., 2.])
    """
    return features.flatten(2).mean(2).mean(0) if features.ndim > 2 else features.mean(0)
