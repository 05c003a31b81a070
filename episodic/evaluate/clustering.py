"""How far clusters of embeddings are classes."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import unit, upcast


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

    points = (unit(embeddings) if normalize else upcast(embeddings)).detach().cpu().numpy()
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
