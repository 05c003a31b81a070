"""Heads: layers between a backbone and the learner or loss that compares its embeddings."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.functional.pairs import unit


def no_head(backbone: nn.Module) -> nn.Module:
    """The backbone as it is, without a head.

    >>> from episodic.core.backbones.conv4 import Conv4
    >>> no_head(Conv4(in_channels=1, image_size=28)).shape
    (64,)
    """
    return backbone


class LinearHead(nn.Module):
    """A linear layer on the flattened features f(x) of a backbone: `W f(x) + b`. It gives embeddings of another dimension, with
    entries below 0 too.

    Backbones for few-shot learning end in a ReLU, so no cosine of their embeddings is below 0. Losses of embeddings, above all
    those with proxies, want opposite directions, and deep metric learning puts such a layer on any network. After pre-training it
    can be left out: a run with another head, or none, starts from the weights of the backbone alone (`init_from=<run>`).

    **Arguments:** `embedding_dim`: of the embeddings. `normalize`: embeddings have length 1. `slices`: with `normalize`, the number
    of equal parts of an embedding that have length 1 each (see `divide_and_conquer`).

    >>> from episodic.core.backbones.conv4 import Conv4
    >>> backbone = LinearHead(Conv4(in_channels=1, image_size=28), embedding_dim=16, normalize=True)
    >>> backbone.shape, backbone(torch.rand(2, 1, 28, 28)).shape
    ((16,), torch.Size([2, 16]))
    """

    def __init__(self, backbone: nn.Module, embedding_dim: int = 128, normalize: bool = False, slices: int = 1):
        super().__init__()
        if embedding_dim < 1 or slices < 1 or embedding_dim % slices:
            raise ValueError(
                f"embedding_dim must be at least 1, and a multiple of slices, got {embedding_dim} and {slices}"
            )
        self.body = backbone
        self.head = nn.Linear(math.prod(backbone.shape), embedding_dim)
        self.normalize = normalize
        self.slices = slices
        self.shape = (embedding_dim,)
        idle = {"slices": "embeddings keep their length (head.normalize=false)"}
        self.without_effect = {} if normalize else idle
        self.squared_length = float(slices) if normalize else None

    def forward(self, images: Float[Tensor, "item channels height width"]) -> Float[Tensor, "item dim"]:
        embeddings = self.head(self.body(images).flatten(1))
        if not self.normalize:
            return embeddings
        with torch.autocast(embeddings.device.type, enabled=False):
            return unit(embeddings.unflatten(1, (self.slices, -1))).flatten(1)
