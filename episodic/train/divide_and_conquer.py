"""Training by divide and conquer: each batch comes from one cluster of the images, and trains one slice of the embedding."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import scipy  # its parts are imported when they are used
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.episodes.sampler import EpisodeSampler
from episodic.run.distributed import from_first
from episodic.train.dml import AbstractBatches, nearest_are_right


@dataclasses.dataclass(eq=False)
class ClusteredTraining(AbstractBatches):
    """Puts the training images into clusters, and lets each cluster train one slice of the embedding. It makes the batches of
    `loss=divide_and_conquer`.

    Every `recluster_every` steps the images are put into as many clusters as the loss has learners, by K-means on their embeddings.
    A new cluster takes the number of the old one with which it shares most images. Batches come from one cluster after the other. A
    batch trains its cluster's slice, `dim / n_learners` coordinates brought to length 1, and the whole backbone. The last share
    `finish` of the steps trains all coordinates together, on batches of all images. The clusters are a buffer of `state`.

    Sanakoyeu, Tschernezki, Büchler, Ommer: *Divide and Conquer the Embedding Space for Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1906.05990.

    **Departures:** none known from the paper. The authors' code clusters the features below the embeddings, and applies the
    matching of clusters the wrong way round.

    **Arguments** beside those of batches:

    - `recluster_every` (default 400): steps between two clusterings; two epochs in the paper.
    - `finish` (default 0.05, as in the paper): the share of the steps that train all coordinates.

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
        """The images of this step, and the cluster that they come from. The cluster is None where they come from all images."""
        everywhere = torch.from_numpy(self.source.batch(self.step).flat())
        if self.step >= (1 - self.finish) * self.steps:
            return everywhere, None
        if self.step % self.recluster_every == 0:
            before = self.state.clusters if self.step else None
            embeddings, many, seed = self.embed_all(), self.loss.n_learners, self.setup.seed
            self.state.clusters = from_first(lambda: clusters_of(embeddings, many, before, seed))
            self.inside.clear()
        cluster = self.step % self.loss.n_learners
        if cluster not in self.inside:
            self.inside[cluster] = self.batches_of(cluster)
        inside, sampler = self.inside[cluster]
        if sampler is None:
            return everywhere, None
        return inside[torch.from_numpy(sampler.batch(self.step).flat())], cluster

    def batches_of(self, cluster: int) -> tuple[Int64[Tensor, " item"], EpisodeSampler | None]:
        """The images of a cluster, and a sampler of batches of them. The sampler is None where fewer than two classes have enough
        images.
        """
        inside = torch.where(self.state.clusters.cpu() == cluster)[0]
        labels = self.setup.store.labels[inside]
        classes = int((labels.bincount() >= self.images_per_class).sum())
        if classes < 2:
            return inside, None
        return inside, self.batches(self.steps, labels=labels.numpy(), n_way=min(classes, self.classes_per_batch))


def clusters_of(
    embeddings: Float[Tensor, "item dim"], n_clusters: int, before: Int64[Tensor, " item"] | None, seed: int
) -> Int64[Tensor, " item"]:
    """The cluster of each item, by K-means. A cluster has the number of the cluster in `before` with which it shares most items.

    **Arguments:** `before`: the clusters of the same items until now; None for any numbers. `seed`: of K-means.

    >>> embeddings = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]])
    >>> clusters_of(embeddings, n_clusters=2, before=torch.tensor([1, 1, 0, 1]), seed=0)
    tensor([1, 1, 0, 0])
    """
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(embeddings.cpu().numpy())
    if before is not None:
        shared = np.zeros((n_clusters, n_clusters), dtype=np.int64)  # [now, before]
        np.add.at(shared, (found, before.cpu().numpy()), 1)
        now, old = scipy.optimize.linear_sum_assignment(shared, maximize=True)
        found = old[np.argsort(now)][found]
    return torch.from_numpy(found.astype(np.int64))
