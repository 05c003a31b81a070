"""Puts embeddings into clusters and measures how far the clusters are the classes."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import unit, upcast


@dataclasses.dataclass(frozen=True)
class Clustering:
    """How far clusters agree with classes. Each score is 1 where every cluster is exactly one class.

    - `nmi`: normalized mutual information, by the arithmetic mean of the two entropies. It is high for many small clusters, even
      random ones.
    - `ami`: adjusted mutual information, the same less what random clusters would get.
    - `f1`: the harmonic mean of precision and recall of pairs. A pair in the same cluster is a guess that it is in the same class.
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
    """Puts embeddings into clusters by K-means, and scores the clusters against the labels. There are as many clusters as classes,
    unless `n_clusters` says otherwise.

    Oh Song, Xiang, Jegelka, Savarese: *Deep Metric Learning via Lifted Structured Feature Embedding*, CVPR 2016,
    https://arxiv.org/abs/1511.06452. Seed, number of starts and length of the vectors move the NMI by about half a point.

    **Arguments:**

    - `n_clusters` (default None): how many clusters; None for the number of classes.
    - `seed` (default 0) and `n_init` (default 10): K-means begins this often at other random centers, and the tightest result
      counts.
    - `normalize` (default true): whether vectors are brought to length 1 first.

    >>> import torch
    >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> clustering(embeddings, torch.tensor([0, 0, 1, 1]))
    Clustering(nmi=1.0, ami=1.0, f1=1.0)
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
    """Scores clusters against labels, whoever made the clusters. `labels` and `clusters` are integers `[N]`, one an item.

    >>> found = compare_clusters(labels=np.array([0, 0, 1, 1]), clusters=np.array([0, 0, 1, 2]))
    >>> round(found.nmi, 2), round(found.f1, 2)
    (0.8, 0.67)
    """
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(labels, clusters).tolist()
    pairs = 2 * right + wrong + missed
    return Clustering(
        nmi=float(normalized_mutual_info_score(labels, clusters)),
        ami=float(adjusted_mutual_info_score(labels, clusters)),
        f1=2 * right / pairs if pairs else 1.0,
    )
