"""Divide and conquer: batches from one cluster of the images after the other, each training its slice of the embedding."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import scipy  # its parts are imported when they are used
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.episodes.sampler import EpisodeSampler
from episodic.train.dml import AbstractBatches, nearest_are_right


@dataclasses.dataclass(eq=False)
class ClusteredTraining(AbstractBatches):
    """Puts the training images into clusters, and lets each cluster train one slice of the embedding. For
    `loss=divide_and_conquer`.

    Every `recluster_every` steps the images are put into as many clusters as the loss has learners, by K-means on their
    embeddings; clusters keep the number of the old one that they share most images with. Batches come from one cluster after
    the other and train its slice, of `dim / n_learners` coordinates brought to length 1, and the whole backbone. The last `finish`
    of the steps train all coordinates together on batches of all images. The clusters are a buffer of the state.

    Sanakoyeu, Tschernezki, Büchler, Ommer: *Divide and Conquer the Embedding Space for Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1906.05990.

    Departures: none known from the paper. The authors' code clusters the features below the embeddings, and applies the matching
    of clusters the wrong way round.

    **Arguments** beside those of batches: `recluster_every`: two epochs in the paper. `finish`: a share of the steps, 0.05 in the
    paper.

    **Raises:** `ValueError` with other losses, and where some training images are held out or unlabeled.
    """

    recluster_every: int = 400
    finish: float = 0.05

    follows_length: ClassVar[bool] = True

    def prepare(self) -> None:
        if list(self.setup.objective.losses) != ["divide_and_conquer"]:
            raise ValueError("trainer=divide_and_conquer makes batches for loss=divide_and_conquer alone")
        if not 0 <= self.finish <= 1:
            raise ValueError(f"trainer.finish, a share of the steps, must lie in 0..1, got {self.finish}")
        self.refuse_hidden_images()
        self.loss = self.setup.objective.losses["divide_and_conquer"]
        self.source = self.batches(self.steps)
        self.inside: dict[int, tuple[Tensor, EpisodeSampler | None]] = {}  # by cluster, since the last clustering
        self.state.register_buffer("clusters", torch.zeros(len(self.setup.store), dtype=torch.long))

    def compute_loss(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        items, cluster = self.batch()
        embeddings, labels = self.embed_batch(items, generator)
        loss = self.loss.of_slice(embeddings, labels, cluster)
        weight = self.setup.objective.weights["divide_and_conquer"]
        return weight * loss, nearest_are_right(embeddings.detach(), labels)

    def batch(self) -> tuple[Int64[Tensor, " item"], int | None]:
        """The images of this step, and the cluster that they are from; None where they are from all."""
        everywhere = torch.from_numpy(self.source.batch(self.step).flat())
        if self.step >= (1 - self.finish) * self.steps:
            return everywhere, None
        if self.step % self.recluster_every == 0:
            before = self.state.clusters if self.step else None
            self.state.clusters = clusters_of(self.embed_all(), self.loss.n_learners, before, self.setup.seed)
            self.inside.clear()
        cluster = self.step % self.loss.n_learners
        if cluster not in self.inside:
            self.inside[cluster] = self.batches_of(cluster)
        inside, sampler = self.inside[cluster]
        if sampler is None:
            return everywhere, None
        return inside[torch.from_numpy(sampler.batch(self.step).flat())], cluster

    def batches_of(self, cluster: int) -> tuple[Int64[Tensor, " item"], EpisodeSampler | None]:
        """The images of a cluster and their batches; None where there are no two classes to tell apart."""
        inside = torch.where(self.state.clusters.cpu() == cluster)[0]
        labels = self.setup.store.labels[inside]
        classes = int((labels.bincount() >= self.images_per_class).sum())
        if classes < 2:
            return inside, None
        return inside, self.batches(self.steps, labels=labels.numpy(), n_way=min(classes, self.classes_per_batch))


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
