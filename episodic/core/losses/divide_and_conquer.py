"""Divide and conquer: one learner for each slice of the embedding and each cluster of the data."""

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported when they are used
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.losses.loss import AbstractLoss
from episodic.core.losses.margin import Margin


class DivideAndConquer(AbstractLoss):
    """The margin loss of one slice of the embedding, that of the cluster which the batch is from; in the end of the whole.

    With `trainer.sampler=clustered` the training images are put into `n_learners` clusters every `recluster_every` steps, by
    K-means on their embeddings, and clusters keep the number of the old one that they share most images with. Batches come from
    one cluster after the other and train its slice, of `dim / n_learners` coordinates brought to length 1, and the whole backbone.
    The last `finish` of the steps train all coordinates together on batches of all images, as do all steps with another sampler.

    Sanakoyeu, Tschernezki, Büchler, Ommer: *Divide and Conquer the Embedding Space for Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1906.05990. Embeddings to compare are the slices, each of length 1: `head=linear head.normalize=true
    head.slices=<n_learners>`.

    Departures: none known from the paper. The authors' code clusters the features below the embeddings, applies the matching of
    clusters the wrong way round, and takes near negatives instead of distance-weighted ones.

    **Arguments:** `dim`: of the embeddings, a multiple of `n_learners`. `n_learners`: 8 in the paper, 4 for small data sets; with 1
    the margin loss. `recluster_every`: two epochs in the paper. `finish`: 0.05 in the paper. `alpha`, `beta`: see `Margin`.
    """

    cluster: int | None = None  # which the batch is from; set by the training

    def __init__(
        self,
        dim: int,
        n_learners: int = 4,
        recluster_every: int = 400,
        finish: float = 0.05,
        alpha: float = 0.2,
        beta: float = 1.2,
    ):
        super().__init__()
        if n_learners < 1 or dim % n_learners or dim // n_learners < 2:
            raise ValueError(f"n_learners must share {dim} coordinates evenly, at least 2 each, got {n_learners}")
        if recluster_every < 1:
            raise ValueError(f"recluster_every must be at least 1, got {recluster_every}")
        if not 0 <= finish <= 1:
            raise ValueError(f"finish, a share of the steps, must lie in 0..1, got {finish}")
        self.n_learners = n_learners
        self.recluster_every = recluster_every
        self.finish = finish
        self.part = Margin(alpha, beta, dim=dim // n_learners)
        self.whole = Margin(alpha, beta, dim=dim)

    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        if self.cluster is None:
            return self.whole(embeddings, labels)
        return self.part(embeddings.chunk(self.n_learners, dim=1)[self.cluster], labels)


def clusters_of(
    embeddings: Float[Tensor, "item dim"], n_clusters: int, before: Int64[Tensor, " item"] | None, seed: int
) -> Int64[Tensor, " item"]:
    """The cluster of each item by K-means, numbered as those `before` that share most items with them."""
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(embeddings.cpu().numpy())
    if before is not None:
        shared = np.zeros((n_clusters, n_clusters), dtype=np.int64)  # [now, before]
        np.add.at(shared, (found, before.cpu().numpy()), 1)
        now, old = scipy.optimize.linear_sum_assignment(shared, maximize=True)
        found = old[np.argsort(now)][found]
    return torch.from_numpy(found.astype(np.int64))
