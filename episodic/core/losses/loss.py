"""What a loss of deep metric learning is: a function of embeddings and labels."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from episodic.core.functional.pairs import ANY_LENGTH, DISTANCES, References, masks, precise, unit
from episodic.core.regularizers.sse import exchange_of


class AbstractLoss(nn.Module, abc.ABC):
    """A function `(embeddings [N, D], labels [N]) -> scalar`, at least in float32, whatever autocast says.

    Labels are integers; for losses with `proxies`, from 0 below their `n_classes`. A batch without the pairs that a
    loss learns from gives 0 with a gradient of 0, never NaN.
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
        references: References | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch against itself, or against `references`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.of_matrix(*self.compare(embeddings, labels, references))

    def compare(
        self,
        embeddings: Float[Tensor, "item dim"],
        labels: Int64[Tensor, " item"],
        references: References | None = None,
    ) -> tuple[Float[Tensor, "item reference"], Bool[Tensor, "item reference"], Bool[Tensor, "item reference"]]:
        """What `of_matrix` takes, of the arguments of `forward`."""
        references = references or References.batch(embeddings, labels)
        place = unit if self.normalize and self.measure not in ANY_LENGTH else precise
        x = place(embeddings)
        y = x if references.embeddings is embeddings else place(references.embeddings)
        return self.measures[self.measure](x, y), *masks(labels, references.labels, references.own)


class AbstractProxyLoss(AbstractLoss):
    """A loss of items against what it learns for each of `n_classes` classes.

    `exchange`: labels to labels, see `core.sse`, once an item; None for none.

    **Raises:** `ValueError` for a label outside 0..n_classes-1.
    """

    def __init__(self, n_classes: int, exchange: nn.Module | None):
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, got {n_classes}")
        self.n_classes = n_classes
        self.exchange = exchange_of(n_classes, exchange)

    @abc.abstractmethod
    def of_classes(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        """The loss for labels that are in range, and exchanged."""

    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        if ((labels < 0) | (labels >= self.n_classes)).any():
            raise ValueError(f"labels must lie in 0..{self.n_classes - 1}, got {labels.min()}..{labels.max()}")
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.of_classes(embeddings, self.exchange(labels))
