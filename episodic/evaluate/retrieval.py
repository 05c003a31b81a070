"""Measures how well the embedding of an image finds other images of its class, among classes that training has not seen."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import upcast
from episodic.evaluate.intervals import Interval, mean_interval
from episodic.run.distributed import fill_from_all, process_number, shares

CHUNK_BYTES = 2**25  # of scores of a chunk of queries against the gallery
TIE = 8  # roundings: a matrix product may score two copies of an item a few apart


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieval:
    """What each query found. `values` has every metric for every query, and the properties are their means.

    - `values`: `recall@<k>` (1 for a hit, else 0), `r_precision` and `map@r`, each float64 `[query]`, in the order of the queries
      that count. The function `retrieval` has their equations.
    - `skipped`: how many queries do not count, because there is no other item of their class.
    """

    values: dict[str, np.ndarray]
    skipped: int

    @property
    def recall_at(self) -> dict[int, float]:
        """The share of queries that have an item of their class among the `k` nearest, by `k`."""
        name = "recall@"
        return {int(k.removeprefix(name)): float(v.mean()) for k, v in self.values.items() if k.startswith(name)}

    @property
    def precision_at_1(self) -> float:
        """The share of queries whose nearest item is of their class; it is `recall_at[1]`."""
        return float(self.values["recall@1"].mean())

    @property
    def r_precision(self) -> float:
        """The mean share of the query's class among the R nearest items, where R items are of that class."""
        return float(self.values["r_precision"].mean())

    @property
    def map_at_r(self) -> float:
        """The mean over the R nearest items of the precision at those of the query's class, with 0 at the others."""
        return float(self.values["map@r"].mean())

    @property
    def intervals(self) -> dict[str, Interval]:
        """The mean of each metric with its interval over the queries. It covers neither the choice of classes nor the training
        seed.
        """
        return {name: mean_interval(values) for name, values in self.values.items()}


@torch.no_grad()
def retrieval(
    embeddings: Float[Tensor, "query dim"],
    labels: Int64[Tensor, " query"],
    gallery: Float[Tensor, "item dim"] | None = None,
    gallery_labels: Int64[Tensor, " item"] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    distance: AbstractDistance = Cosine(),
) -> Retrieval:
    """Recall@K, R-precision and MAP@R of queries that look for items of their class. They look in the `gallery`; without one, among
    each other.

        Recall@K = 1 if an item of the class is among the K nearest, else 0
        R-precision = (1/R) sum_{i=1..R} rel(i)
        MAP@R = (1/R) sum_{i=1..R} rel(i) P(i),  P(i) the share of the class among the i nearest

    with R the number of items of the query's class in the gallery, and `rel(i)` 1 where the i-th nearest item is of that class,
    else 0. Recall@K is that of Oh Song et al., *Deep Metric Learning via Lifted Structured Feature Embedding*, CVPR 2016,
    https://arxiv.org/abs/1511.06452 (a rate of hits, not the recall of information retrieval). The others are those of Musgrave,
    Belongie, Lim, *A Metric Learning Reality Check*, ECCV 2020, https://arxiv.org/abs/2003.08505.

    Ties are counted against the embeddings: of items that are equally near, those of other classes come first. So ranks do not
    depend on the order of the data, and embeddings that are all the same find nothing. Two items are equally near where their
    scores differ by no more than the rounding of a matrix product (eight roundings), as those of copies may.

    Without a gallery a query does not find itself; it does find a copy of itself. Queries without an item of their class are left
    out and counted. Memory beside the input: at most two copies of it in float32, then one copy and chunks of `CHUNK_BYTES`.
    Several processes share the queries, and each gets all values.

    **Arguments:**

    - `gallery`, `gallery_labels` (default None): where to look; both or neither.
    - `ks` (default 1, 2, 4, 8): the K of Recall@K; 1 is always among them.
    - `distance` (default `Cosine()`): what ranks the items.

    **Raises:** `ValueError` for embeddings that are not finite, a gallery without labels, and where no query has anything to find.

    >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.2, 1.0]])
    >>> found = retrieval(embeddings, torch.tensor([0, 0, 1, 0]), ks=(1, 2))
    >>> found.recall_at[2], found.map_at_r, found.skipped
    (1.0, 0.75, 1)
    """
    alone = gallery is None
    if alone != (gallery_labels is None):
        raise ValueError("a gallery needs its labels, and labels of a gallery need the gallery")
    gallery, gallery_labels = (embeddings, labels) if alone else (gallery, gallery_labels)
    _check(embeddings, labels, gallery, gallery_labels, ks)
    members = _Members(gallery_labels)
    classes = members.of(labels)
    wanted = members.counts[classes] - int(alone)  # R of each query
    counted = (wanted > 0).nonzero()[:, 0]
    if len(counted) == 0:
        raise ValueError("no query has another item of its class to find")

    ks = sorted({1, *ks})
    # Filled in place: small results kept between large tensors would break up the heap, which then grows by the chunk.
    values = {name: np.empty(len(counted)) for name in (*(f"recall@{k}" for k in ks), "r_precision", "map@r")}
    with _exact(embeddings.device):
        scored = _scorer(distance, gallery, None if alone else embeddings)
        size = torch.finfo(upcast(gallery[:1]).dtype).bits // 8
        rows = max(1, CHUNK_BYTES // (size * len(gallery) + 64 * members.largest))
        bounds = shares(len(counted), rows)
        for start in range(*bounds[process_number() :][:2], rows):
            of = counted[start : start + rows]
            own, is_own = members.table(classes[of])
            if alone:
                is_own = is_own & (own != of[:, None])
            scores, rounding = scored(of, own)
            for name, found in _found(scores, own, is_own, rounding, wanted[of], ks).items():
                values[name][start : start + rows] = found.cpu()
    for array in values.values():
        fill_from_all(torch.from_numpy(array), bounds)
    return Retrieval(values, skipped=len(labels) - len(counted))


def _check(embeddings: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor, ks: Sequence[int]) -> None:
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be numbers of neighbors, at least 1, got {list(ks)}")
    for name, x, y in (("embeddings", embeddings, labels), ("gallery", gallery, gallery_labels)):
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"{name} must be some vectors with a label each, got {len(x)} vectors and {len(y)} labels")
        if not x.isfinite().all():
            raise ValueError(f"{name} must be finite to have neighbors; has training diverged?")


Scorer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _scorer(distance: AbstractDistance, gallery: Tensor, embeddings: Tensor | None) -> Scorer:
    """`(queries, items of their class) -> (scores against all items, rounding of those items' scores)`, larger where nearer.

    Where the distance ranks as Euclidean distances of some points do, it is one matrix product, of points less their mean:
    distances do not depend on it, but how much of them is rounding does.
    """
    items = distance.points(gallery)
    if items is None:
        queries = gallery if embeddings is None else embeddings

        def by_matrix(of: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
            scores = distance.similarities(queries[of], gallery)
            return scores, TIE * torch.finfo(scores.dtype).eps * scores.gather(1, own).abs()

        return by_matrix
    center = items.mean(0)
    items = items - center
    queries = items if embeddings is None else distance.points(embeddings) - center
    lengths = items.norm(dim=1)

    def by_points(of: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        x = queries[of]
        scores = torch.addmm(lengths.square(), x, items.mT, beta=-0.5)  # (|q|^2 - |q - x|^2) / 2
        return scores, TIE * torch.finfo(x.dtype).eps * lengths[own] * (lengths[own] + x.norm(dim=1, keepdim=True))

    return by_points


def _found(
    scores: Float[Tensor, "query item"],
    own: Int64[Tensor, "query member"],
    is_own: Bool[Tensor, "query member"],
    rounding: Float[Tensor, "query member"],
    wanted: Int64[Tensor, " query"],
    ks: Sequence[int],
) -> dict[str, Tensor]:
    """The metrics of each query from its `scores`, which are overwritten; `own`: the columns of its class."""
    lowest = -torch.inf
    mine = (scores.gather(1, own) - rounding).masked_fill(~is_own, lowest).sort(1, descending=True).values
    scores.scatter_(1, own, lowest)  # what is left are the other classes
    before_first = (scores >= mine[:, :1]).sum(1, dtype=torch.int32)
    others = scores.topk(min(int(wanted.max()), scores.shape[1])).values
    before = torch.searchsorted(-others, -mine, right=True)  # items of other classes at least as near
    place = torch.arange(mine.shape[1], device=mine.device)
    is_near = (place + before < wanted[:, None]) & (mine > lowest)
    precision = (place + 1) / (place + before + 1)
    found = {f"recall@{k}": before_first < k for k in ks}
    found["r_precision"] = is_near.sum(1) / wanted
    found["map@r"] = (precision * is_near).sum(1) / wanted
    return found


class _Members:
    """Which items have which label: items in the order of their classes, and where each class begins."""

    def __init__(self, labels: Int64[Tensor, " item"]):
        self.labels, place, counts = labels.unique(return_inverse=True, return_counts=True)
        self.counts = torch.cat([counts, counts.new_zeros(1)])  # and of labels that are not there
        self.order = place.argsort(stable=True)
        self.begins = self.counts.cumsum(0) - self.counts
        self.largest = int(self.counts.max())

    def of(self, labels: Int64[Tensor, " query"]) -> Int64[Tensor, " query"]:
        """The class of each label, counted from 0; the last is that of labels that are not there."""
        place = torch.searchsorted(self.labels, labels)
        known = self.labels[place.clamp(max=len(self.labels) - 1)] == labels
        return torch.where(known, place, len(self.labels))

    def table(self, classes: Int64[Tensor, " query"]) -> tuple[Int64[Tensor, "query member"], Tensor]:
        """The items of each of `classes`, in rows filled up with the first of them, and which are no filling."""
        place = torch.arange(self.largest, device=classes.device)
        inside = place < self.counts[classes][:, None]
        return self.order[self.begins[classes][:, None] + torch.where(inside, place, 0)], inside


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Matrix products in full float32, whatever autocast or the precision for training say: neighbors differ by little."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
