"""Embeddings in two dimensions."""

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
    """Embeddings in two dimensions: `points [n, 2]`, their `labels [n]`, and how they came there."""

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
    """Images of `classes`, up to `per_class` of each, by t-SNE of their embeddings.

    None for a learner without embeddings, or fewer than 10 images.
    """
    labels = store.labels.cpu().numpy()
    items = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in classes])
    if not isinstance(learner, AbstractMetricLearner) or len(items) < 10:
        return None
    from sklearn.manifold import TSNE  # takes a while

    chosen = torch.from_numpy(items)
    few = dataclasses.replace(store, images=store.gather(chosen), labels=store.labels[chosen])
    vectors, _ = embeddings_of(learner, few, normalize, hardware)
    vectors = np.nan_to_num(vectors.float().cpu().numpy())
    perplexity = min(30.0, (len(items) - 1) / 3)
    spread = vectors.std() > 0  # its start is scaled to unit variance
    points = TSNE(
        perplexity=perplexity, init="pca" if spread and vectors.shape[1] > 1 else "random", random_state=seed
    ).fit_transform(vectors)
    return Plane(points.astype(np.float64), labels[items], f"t-SNE, perplexity {perplexity:.0f}, Euclidean distances")
