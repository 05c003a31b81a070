"""The bases of the losses of deep metric learning: functions of embeddings and labels."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import References, masks, unit, upcast
from episodic.core.regularizers.sse import label_swap_of


class AbstractLoss(nn.Module, abc.ABC):
    """A loss of embeddings: it says how well they tell classes apart. Call it with `(embeddings [N, D], labels [N])`, and it
    returns a scalar to minimize, computed at least in float32, whatever autocast says (`core.functional.pairs` has the rules).

    Labels are integers of 0 or more, and below `n_classes` where that is set. A batch without the pairs that a loss learns from
    gives 0 with a gradient of 0, never NaN.

    Each call checks its batch. On a GPU the values of labels are checked by losses with proxies only, since the check waits for
    the GPU; compiled by `torch.compile`, they are not checked.

    **Raises:** `TypeError` or `ValueError` for embeddings or labels of another kind or shape, and for labels out of range.

    **Attributes:**

    - `n_classes`, `dim`: the numbers of classes and coordinates that the loss was made for; None where it takes any.
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
    n_classes: int | None = None
    dim: int | None = None
    _waits_for_labels: bool = False  # whether it checks the values of labels that are on a GPU

    def __init__(self):
        super().__init__()
        self.without_effect = {}
        self.register_forward_pre_hook(_with_checked_batch, with_kwargs=True)

    @abc.abstractmethod
    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        """The loss of a batch."""

    def check_length(self, steps: int) -> None:
        """Hook. **Raises:** `ValueError` where nothing of the loss would act in a training of `steps` steps."""


def _with_checked_batch(loss: AbstractLoss, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """The arguments of a call of `loss`, with embeddings and labels in the types that losses compute in."""
    given = dict(zip(("embeddings", "labels"), args, strict=False)) | kwargs
    if not {"embeddings", "labels"} <= given.keys():
        return None  # Python says what is missing
    embeddings, labels = given.pop("embeddings"), given.pop("labels")
    _check_batch(embeddings, labels, loss.dim)
    if (labels.device.type == "cpu" or loss._waits_for_labels) and not torch.compiler.is_compiling():
        _check_range(labels, loss.n_classes)
    return (upcast(embeddings), labels.long(), *args[2:]), given


def _check_batch(embeddings: Any, labels: Any, dim: int | None) -> None:
    for name, x in (("embeddings", embeddings), ("labels", labels)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings must be floating-point numbers, got {embeddings.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}: convert them by labels.long()")
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must have the shape [N, D], got {list(embeddings.shape)}")
    if dim is not None and embeddings.shape[1] != dim:
        raise ValueError(f"embeddings must have {dim} coordinates, the dim of the loss, got {embeddings.shape[1]}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels must have the shape [{len(embeddings)}], one for each of the embeddings, got {list(labels.shape)}"
        )
    if labels.device != embeddings.device:
        raise ValueError(f"labels must be where the embeddings are, on {embeddings.device}, got {labels.device}")


def _check_range(labels: Tensor, n_classes: int | None) -> None:
    if not labels.numel():
        return
    low, high = (bound.item() for bound in labels.aminmax())
    if n_classes is not None and not 0 <= low <= high < n_classes:
        raise ValueError(f"labels must lie in 0..{n_classes - 1}, got {low}..{high}")
    if low < 0:
        raise ValueError(f"labels must not be negative, got {low}: leave out the items without a label")


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

    _waits_for_labels = True

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
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.of_classes(embeddings, self.label_swap(labels))
