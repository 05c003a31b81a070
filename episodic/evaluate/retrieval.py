"""How well embeddings of unseen classes find, cluster and spread: the metrics of deep metric learning."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import precise, unit
from episodic.evaluate.intervals import Interval, mean_interval

CHUNK_BYTES = 2**25  # of scores of a chunk of queries against the gallery
TIE = 8  # roundings: a matrix product may score two copies of an item a few apart


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieval:
    """What each query found, `values` by metric and query, and how many queries had nothing to find (`skipped`).

    `values` has `recall@<k>` (1 for a hit, else 0), `r_precision` and `map@r`, float64 `[query]`, in the order of the queries that
    count.
    """

    values: dict[str, np.ndarray]
    skipped: int

    @property
    def recall_at(self) -> dict[int, float]:
        """Share of queries with an item of their class among the `k` nearest, by `k`."""
        name = "recall@"
        return {int(k.removeprefix(name)): float(v.mean()) for k, v in self.values.items() if k.startswith(name)}

    @property
    def precision_at_1(self) -> float:
        """Share of queries whose nearest item is of their class: `recall_at[1]`."""
        return float(self.values["recall@1"].mean())

    @property
    def r_precision(self) -> float:
        """Share of the query's class among the R nearest, where the class has R items besides the query."""
        return float(self.values["r_precision"].mean())

    @property
    def map_at_r(self) -> float:
        """Mean over the R nearest of the precision at those that are of the query's class, 0 at the others."""
        return float(self.values["map@r"].mean())

    @property
    def intervals(self) -> dict[str, Interval]:
        """Mean and interval of each metric over the queries. It covers the draw of the queries, not that of classes or seeds."""
        return {name: mean_interval(values) for name, values in self.values.items()}


@torch.no_grad()
def retrieval(
    embeddings: Float[Tensor, "query dim"],
    labels: Int64[Tensor, " query"],
    gallery: Float[Tensor, "item dim"] | None = None,
    gallery_labels: Int64[Tensor, " item"] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    normalize: bool = True,
) -> Retrieval:
    """Recall@K, R-precision and MAP@R of queries that look for their class in the `gallery`; without one, among each other.

        Recall@K = 1 if an item of the class is among the K nearest, else 0
        R-precision = (1/R) sum_{i=1..R} rel(i)
        MAP@R = (1/R) sum_{i=1..R} rel(i) P(i),  P(i) the share of the class among the i nearest

    with R the number of items of the query's class in the gallery. Recall@K is that of Oh Song et al., *Deep Metric Learning
    via Lifted Structured Feature Embedding*, CVPR 2016, https://arxiv.org/abs/1511.06452 (a rate of hits, not the recall of
    information retrieval); the others are those of Musgrave, Belongie, Lim, *A Metric Learning Reality Check*, ECCV 2020,
    https://arxiv.org/abs/2003.08505.

    Ties are counted against the embeddings: of items equally near, those of other classes come first. So ranks depend on no order
    of the data, and embeddings that are all the same find nothing. Equally near is what differs by the rounding of a matrix
    product only, some eight roundings, as copies of an item may. Without a gallery a query does not find itself (by its place:
    a copy of it is found). Queries without an item of their class are left out and counted.

    Memory beside the input: at most two copies of it, in float32, and then one and chunks of `CHUNK_BYTES`.

    **Arguments:** `ks`: the K of Recall@K; 1 is always among them. `normalize`: compare vectors of length 1, which ranks by
    cosine; else by Euclidean distance as they are.

    **Raises:** `ValueError` for embeddings that are not finite, and where no query has anything to find.
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
        items, queries = _centred(gallery, None if alone else embeddings, normalize)
        lengths = items.norm(dim=1)
        rows = max(1, CHUNK_BYTES // (items.element_size() * len(items) + 64 * members.largest))
        for start in range(0, len(counted), rows):
            of = counted[start : start + rows]
            own, is_own = members.table(classes[of])
            if alone:
                is_own = is_own & (own != of[:, None])
            x = queries[of]
            scores = torch.addmm(lengths.square(), x, items.mT, beta=-0.5)  # (|q|^2 - |q - x|^2) / 2
            rounding = TIE * torch.finfo(x.dtype).eps * lengths[own] * (lengths[own] + x.norm(dim=1, keepdim=True))
            for name, found in _found(scores, own, is_own, rounding, wanted[of], ks).items():
                values[name][start : start + rows] = found.cpu()
    return Retrieval(values, skipped=len(labels) - len(counted))


def _check(embeddings: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor, ks: Sequence[int]) -> None:
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be numbers of neighbours, at least 1, got {list(ks)}")
    for name, x, y in (("embeddings", embeddings, labels), ("gallery", gallery, gallery_labels)):
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"{name} must be some vectors with a label each, got {len(x)} vectors and {len(y)} labels")
        if not x.isfinite().all():
            raise ValueError(f"{name} must be finite to have neighbours; has training diverged?")


def _centred(gallery: Tensor, embeddings: Tensor | None, normalize: bool) -> tuple[Tensor, Tensor]:
    """Items and queries less the mean of the items: distances do not depend on it, but how much of them is rounding does."""
    place = unit if normalize else precise
    items = place(gallery)
    centre = items.mean(0)
    items = items - centre
    return items, items if embeddings is None else place(embeddings) - centre


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
    """Matrix products in full float32, whatever autocast or the precision for training say: neighbours differ by little."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclasses.dataclass(frozen=True)
class Clustering:
    """How far clusters are classes, 1 at best.

    `nmi`: mutual information by the arithmetic mean of the two entropies; high for many small clusters, whoever made them.
    `ami`: the same less what chance gives. `f1`: of pairs in the same cluster as a guess at pairs in the same class.
    """

    nmi: float
    ami: float
    f1: float


def clustering(
    embeddings: Float[Tensor, "item dim"],
    labels: Int64[Tensor, " item"],
    n_clusters: int | None = None,
    seed: int = 0,
    n_init: int = 10,
    normalize: bool = True,
) -> Clustering:
    """K-means on the embeddings, of length 1 if `normalize`, with as many clusters as classes, scored against the labels.

    Oh Song et al., 2016, https://arxiv.org/abs/1511.06452. Seed, restarts and length move the NMI by about half a point.

    **Arguments:** `n_clusters`: None for the number of classes. `n_init`: restarts, of which the tightest counts.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = (unit(embeddings) if normalize else precise(embeddings)).detach().cpu().numpy()
    means = KMeans(n_clusters or len(labels.unique()), n_init=n_init, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters: the scores say so
        clusters = means.fit_predict(points)
    return compare_clusters(labels.cpu().numpy(), clusters)


def compare_clusters(labels: np.ndarray, clusters: np.ndarray) -> Clustering:
    """The scores of any `clusters [N]` of items with `labels [N]`."""
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(labels, clusters).tolist()
    pairs = 2 * right + wrong + missed
    return Clustering(
        nmi=float(normalized_mutual_info_score(labels, clusters)),
        ami=float(adjusted_mutual_info_score(labels, clusters)),
        f1=2 * right / pairs if pairs else 1.0,
    )


@dataclasses.dataclass(frozen=True)
class Density:
    """Mean cosine distance within classes (`intra`), between the centres of classes (`inter`), and `ratio`, intra by inter."""

    intra: float
    inter: float
    ratio: float


@torch.no_grad()
def density(embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Density:
    """How little classes are compressed, for the embeddings of the training set: what is compressed less generalises better.

        intra = mean over classes of the mean of 1 - cos(x, y) over pairs of different items of the class
        inter = mean of 1 - cos(a, b) over pairs of different classes, a and b the means of their vectors of length 1

    Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning*, ICML 2020, https://arxiv.org/abs/2002.08473. Classes of one item have no pairs and count between classes only;
    what has no pairs at all is NaN.
    """
    x = unit(embeddings)
    classes, place, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = x.new_zeros(len(classes), x.shape[1]).index_add_(0, place, x)
    squares = x.new_zeros(len(classes)).index_add_(0, place, x.square().sum(1))
    several = counts > 1
    intra = float(_mean_distance(sums, squares, counts)[several].mean())
    centres = unit(sums)
    n = torch.tensor(len(classes), device=x.device)
    inter = float(_mean_distance(centres.sum(0), centres.square().sum(), n)) if len(classes) > 1 else float("nan")
    return Density(intra, inter, intra / inter if inter else float("nan"))


def _mean_distance(sums: Tensor, squares: Tensor, counts: Tensor) -> Tensor:
    """Mean of 1 - x y over pairs of different vectors, of which there are `counts`, from their sum and that of their squares."""
    return (1 - (sums.square().sum(-1) - squares) / (counts * (counts - 1))).clamp(min=0)


@torch.no_grad()
def spectral_decay(embeddings: Float[Tensor, "item dim"], skip: int = 0) -> float:
    """`rho = KL(uniform || s)` of the singular values of the embeddings, as shares `s_1 .. s_D` of their sum; low where
    embeddings use many directions alike.

        rho = -(1/D) sum_i log(D s_i)

    Roth et al., 2020, https://arxiv.org/abs/2002.08473, for the training set, without centring. `skip`: how many of the largest
    values are left out first (the authors' `rho_spectrum@k` skips k - 1). A share below the rounding of the largest value counts
    as that, so that an unused direction costs much but not infinity; NaN where no more than rounding is left.
    """
    values = torch.linalg.svdvals(precise(embeddings)).cpu().double()  # the largest first
    if not 0 <= skip < len(values):
        raise ValueError(f"skip must leave some of the {len(values)} singular values, got {skip}")
    smallest = torch.finfo(precise(embeddings).dtype).eps * values[0]
    values = values[skip:]
    if not (values > smallest).any():
        return float("nan")
    shares = values.clamp(min=smallest)
    shares = shares / shares.sum()
    return float(-(len(shares) * shares).log().mean())
