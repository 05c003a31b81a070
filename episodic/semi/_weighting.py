"""The network by which self-training weighs its pseudo-labels."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from episodic.core.functional.prototypes import prototypes

PAIRS = 2**12  # pairs of unlabeled item and class that evaluation computes together


class SoftWeighting(nn.Module):
    """How much an unlabeled item counts for each class: the softmax over classes of a score of the pair (item, class).

    The item's map and the mean map of the class's support, concatenated on their channels, go through a 3x3 convolution to 64
    channels and one to 1, each with batch norm and leaky ReLU, then through linear layers to 8 and to 1. The paper has
    only maps; vectors go through a linear layer to 64 with batch norm, then to 8 and to 1.

    The first layer is linear, so it is computed once for each item and once for each class, and added for each pair.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = tuple(shape) if len(shape) == 3 else (math.prod(shape), 1, 1)
        dim, height, width = self.shape
        side = 3 if len(shape) == 3 else 1
        self.first = nn.Conv2d(2 * dim, 64, side, padding=side // 2, bias=False)  # batch norm has one
        layers = [nn.BatchNorm2d(64), nn.LeakyReLU(0.1)]
        if len(shape) == 3:
            layers += [nn.Conv2d(64, 1, 3, padding=1), nn.BatchNorm2d(1), nn.LeakyReLU(0.1)]
        flat = height * width if len(shape) == 3 else 64
        self.rest = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 8), nn.LeakyReLU(0.1), nn.Linear(8, 1))

    def forward(
        self,
        unlabeled: Float[Tensor, "episode unlabeled *item"],
        support: Float[Tensor, "episode support *item"],
        support_y: Int64[Tensor, "episode support"],
        n_way: int,
    ) -> Float[Tensor, "episode unlabeled way"]:
        centers = prototypes(support.flatten(2), support_y, n_way)
        of_item, of_class = self.first.weight.chunk(2, dim=1)
        items, classes = self._first(unlabeled.flatten(2), of_item), self._first(centers, of_class)
        # Batch norm needs all pairs at once in training; evaluation takes a large episode in pieces.
        piece = items.shape[1] if self.training else max(1, PAIRS // classes.shape[:2].numel())
        scores = []
        for some in items.split(piece, dim=1):
            pairs = some[:, :, None] + classes[:, None]
            scores.append(self.rest(pairs.flatten(0, 2)).unflatten(0, pairs.shape[:3])[..., 0])
        return torch.cat(scores, dim=1).softmax(-1)

    def _first(self, items: Tensor, weight: Tensor) -> Tensor:
        maps = nn.functional.conv2d(items.flatten(0, 1).unflatten(1, self.shape), weight, padding=self.first.padding)
        return maps.unflatten(0, items.shape[:2])
