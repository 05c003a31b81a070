"""Embeddings in two dimensions, to see which classes lie together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64

from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.run.device import Hardware
from episodic.run.embed import embeddings_of


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
    """Embeddings in two dimensions: `points [n, 2]`, their classes `labels [n]`, and the `method` in words."""

    points: Float[np.ndarray, "item 2"]
    labels: Int64[np.ndarray, " item"]
    method: str


def plane(
    learner: AbstractLearner,
    store: ImageStore,
    classes: Sequence[int],
    normalize: Normalize,
    hardware: Hardware,
    *,
    per_class: int = 40,
    seed: int = 0,
) -> Plane | None:
    """Embed up to `per_class` images of each of `classes`, and place them in two dimensions by t-SNE.

    None for a learner without embeddings, and for fewer than 10 images. t-SNE runs in one thread: with several, sums are added in
    another order each time, and the same command would give another picture.

    Van der Maaten, Hinton: *Visualizing Data using t-SNE*, JMLR 2008, https://jmlr.org/papers/v9/vandermaaten08a.html.
    """
    labels = store.labels.cpu().numpy()
    items = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in classes])
    if not isinstance(learner, AbstractMetricLearner) or len(items) < 10:
        return None
    from sklearn.manifold import TSNE  # takes a while
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    chosen = torch.from_numpy(items)
    few = dataclasses.replace(store, images=store.gather(chosen), labels=store.labels[chosen], item_names=())
    vectors, _ = embeddings_of(learner, few, normalize, hardware)
    vectors = np.nan_to_num(vectors.float().cpu().numpy())
    perplexity = min(30.0, (len(items) - 1) / 3)
    # init="pca" divides by the standard deviation.
    differ = vectors.std() > 0 and vectors.shape[1] > 1
    tsne = TSNE(perplexity=perplexity, init="pca" if differ else "random", random_state=seed)
    with threadpool_limits(1):
        points = tsne.fit_transform(vectors)
    return Plane(points.astype(np.float64), labels[items], f"t-SNE, perplexity {perplexity:.0f}, Euclidean distances")
