"""The bases of the losses of deep metric learning: functions of embeddings and labels."""

from __future__ import annotations

import abc
import dataclasses

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import References, masks, unit, upcast
from episodic.core.regularizers.sse import label_swap_of


class AbstractLoss(nn.Module, abc.ABC):
    """A loss of embeddings: it says how well they tell classes apart. Call it with `(embeddings [N, D], labels [N])`, and it
    returns a scalar to minimize, computed at least in float32, whatever autocast says.

    Labels are integers; losses with proxies need labels in 0..n_classes-1. A batch without the pairs that a loss learns from gives
    0 with a gradient of 0, never NaN.

    **Attributes:**

    - `needs_trainer`: the training procedure whose batches the loss is made for; empty where any batch will do.
    - `without_effect`: settings that do nothing with the other settings as they are, each with the reason. A run that sets one of
      them is refused.

    >>> import torch
    >>> class Variance(AbstractLoss):
    ...     def forward(self, embeddings, labels):
    ...         return embeddings.var(0).mean()
    >>> Variance()(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
    tensor(1.)
    """

    needs_trainer: str = ""
    without_effect: dict[str, str]

    def __init__(self):
        super().__init__()
        self.without_effect = {}

    @abc.abstractmethod
    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        """The loss of a batch."""

    def check_length(self, steps: int) -> None:
        """Hook. **Raises:** `ValueError` where nothing of the loss would act in a training of `steps` steps."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The embeddings of a batch `[N, D]` with their labels `[N]`, and the references that they are compared with. A loss may change
    it in `prepare`.
    """

    embeddings: Float[Tensor, "anchor dim"]
    labels: Int64[Tensor, " anchor"]
    references: References


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of an anchor and a reference. It is what a pair loss is computed from.

    - `matrix [N, R]`: distances or similarities, as the loss asks for.
    - `positive`, `negative [N, R]`: which pairs have the same label and which have not; an anchor with itself is neither.
    - `labels [N]` of the anchors, for losses that learn something for each class.
    - `embeddings`: all embeddings of the batch, before `prepare`, for terms that do not depend on pairs.

    >>> import torch
    >>> from episodic.core.losses.contrastive import Contrastive
    >>> distances = torch.tensor([[0.0, 0.4, 0.7], [0.4, 0.0, 0.9]])  # of two anchors to three references
    >>> positive = torch.tensor([[False, True, False], [True, False, False]])
    >>> negative = torch.tensor([[False, False, True], [False, False, True]])
    >>> Contrastive().of_pairs(Pairs(distances, positive, negative))
    tensor(0.6000)
    """

    matrix: Float[Tensor, "anchor reference"]
    positive: Bool[Tensor, "anchor reference"]
    negative: Bool[Tensor, "anchor reference"]
    labels: Int64[Tensor, " anchor"] | None = None
    embeddings: Float[Tensor, "item dim"] | None = None


class AbstractPairLoss(AbstractLoss):
    """A loss of pairs of items. It compares each anchor with each reference, and knows which pairs are of one class.

    Subclasses write `of_pairs`, and `prepare` if they choose anchors or references first. `of_similarities` says
    whether `of_pairs` wants similarities (larger is closer) or distances.

    **Arguments:** `distance`: how embeddings compare. `normalize`: whether they are first brought to length 1.

    **Raises:** `ValueError` for a loss of distances with a similarity that cannot be read as one.

    >>> import torch
    >>> from episodic.core.distances.euclidean import Euclidean
    >>> class Nearest(AbstractPairLoss):
    ...     def of_pairs(self, pairs):
    ...         return pairs.matrix[pairs.positive].mean()
    >>> Nearest(Euclidean(), normalize=False)(torch.tensor([[0.0], [3.0]]), torch.tensor([7, 7]))
    tensor(3.)
    """

    of_similarities: bool = False

    def __init__(self, distance: AbstractDistance, normalize: bool):
        super().__init__()
        if not self.of_similarities and not distance.has_distances:
            raise ValueError(
                f"{type(self).__name__} needs distances, and {distance} cannot be read as one: take euclidean, "
                "squared_euclidean or cosine"
            )
        self.distance = distance
        self.normalize = normalize
        if distance.ignores_length:
            self.without_effect["normalize"] = f"{type(distance).__name__} ignores the length of vectors"

    @abc.abstractmethod
    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        """The loss of all pairs."""

    def prepare(self, batch: Batch, against_itself: bool) -> Batch:
        """Hook: chooses the anchors and references to compare. By default it changes nothing."""
        return batch

    def forward(
        self,
        embeddings: Float[Tensor, "item dim"],
        labels: Int64[Tensor, " item"],
        references: References | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch against itself, or against `references`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            batch = Batch(embeddings, labels, references or References.batch(embeddings, labels))
            return self.of_pairs(self.compare(self.prepare(batch, references is None), embeddings))

    def compare(self, batch: Batch, everything: Tensor) -> Pairs:
        """All pairs of anchors and references in `batch`, which `prepare` gave. `everything`: the embeddings as they came."""
        place = unit if self.normalize and not self.distance.ignores_length else upcast
        references = batch.references
        x = place(batch.embeddings)
        y = x if references.embeddings is batch.embeddings else place(references.embeddings)
        matrix = self.distance.similarities(x, y) if self.of_similarities else self.distance.distances(x, y)
        positive, negative = masks(batch.labels, references.labels, references.self_index)
        return Pairs(matrix, positive, negative, batch.labels, everything)


class AbstractProxyLoss(AbstractLoss):
    """A loss that compares items with vectors that it learns, one or more for each class. These vectors are its proxies, and labels
    are the numbers of classes.

    Subclasses write `of_classes`. In training `label_swap` may exchange a label for another one first, once for each item.

    **Arguments:** `n_classes`: how many classes have proxies. `label_swap`: labels to labels, of `core.regularizers.sse`; None for
    none.

    **Raises:** `ValueError` for a label outside 0..n_classes-1.

    >>> class Softmax(AbstractProxyLoss):
    ...     def __init__(self, n_classes, dim):
    ...         super().__init__(n_classes, label_swap=None)
    ...         self.proxies = nn.Parameter(torch.zeros(n_classes, dim))
    ...     def of_classes(self, embeddings, labels):
    ...         return nn.functional.cross_entropy(embeddings @ self.proxies.T, labels)
    >>> loss = Softmax(n_classes=2, dim=3)(torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    >>> round(loss.item(), 3)
    0.693
    """

    def __init__(self, n_classes: int, label_swap: nn.Module | None):
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, got {n_classes}")
        self.n_classes = n_classes
        self.label_swap = label_swap_of(n_classes, label_swap)

    @abc.abstractmethod
    def of_classes(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        """The loss for labels that are in range, after the exchange."""

    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        if ((labels < 0) | (labels >= self.n_classes)).any():
            raise ValueError(f"labels must lie in 0..{self.n_classes - 1}, got {labels.min()}..{labels.max()}")
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.of_classes(embeddings, self.label_swap(labels))
