"""What a loss of deep metric learning is: a function of embeddings and labels."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from episodic.core.pairs import DISTANCES, masks, unit


class AbstractLoss(nn.Module, abc.ABC):
    """A function `(embeddings [N, D], labels [N]) -> scalar`, at least in float32, whatever autocast says.

    Labels are integers; for losses with `proxies`, from 0 below their `n_classes`. Where nothing can be told of a batch (one class
    only, no two items of a class) the loss is 0 with a gradient of 0, never NaN.
    """

    @abc.abstractmethod
    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        """The loss of a batch."""


class AbstractPairLoss(AbstractLoss):
    """A loss of a matrix of distances or similarities between anchors and references, and of who is positive and negative.

    `measures`, `core.pairs.DISTANCES` or `SIMILARITIES`, is what the loss is for, and `measure` a name in it. `normalize`: whether
    embeddings are first brought to length 1.
    """

    measures: Mapping[str, Callable] = DISTANCES

    def __init__(self, measure: str, normalize: bool):
        super().__init__()
        if measure not in self.measures:
            raise ValueError(f"{type(self).__name__} compares by one of {', '.join(self.measures)}, got {measure!r}")
        self.measure = measure
        self.normalize = normalize

    @abc.abstractmethod
    def of_matrix(
        self,
        matrix: Float[Tensor, "anchor reference"],
        positive: Bool[Tensor, "anchor reference"],
        negative: Bool[Tensor, "anchor reference"],
    ) -> Float[Tensor, ""]:
        """The loss of `matrix`, distances or similarities by `measures`."""

    def forward(
        self,
        embeddings: Float[Tensor, "item dim"],
        labels: Int64[Tensor, " item"],
        references: Float[Tensor, "reference dim"] | None = None,
        reference_labels: Int64[Tensor, " reference"] | None = None,
        own: Int64[Tensor, " item"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch against itself, or against `references`, of which it is the rows `own`, or None for not one."""
        if references is None:
            references, reference_labels = embeddings, labels
            own = torch.arange(len(labels), device=labels.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            x, y = (unit(embeddings), unit(references)) if self.normalize else (embeddings, references)
            return self.of_matrix(self.measures[self.measure](x, y), *masks(labels, reference_labels, own))
