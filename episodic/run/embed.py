"""Features of all images of a store, computed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm import tqdm

from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.run.device import Hardware

EMBED_BATCH = 256  # images embedded at once in evaluation
CHUNK_BYTES = 2**24  # of gathered features; larger chunks leave the processor's cache


@torch.inference_mode()
def embed(
    backbone: nn.Module, store: ImageStore, normalize: Normalize, hardware: Hardware, *, progress: bool = False
) -> Tensor:
    """Features of every image of `store`: float32 `[N, *shape]` on the hardware's device. Leaves `backbone` in eval mode."""
    backbone.eval()
    features = None
    starts = range(0, len(store), EMBED_BATCH)
    for start in tqdm(starts, desc=f"embedding {store.split}", disable=None if progress else True, leave=False):
        images = store.images[start : start + EMBED_BATCH].to(hardware.device, non_blocking=True)
        with hardware.autocast():
            batch = backbone(normalize(images))
        if features is None:
            features = torch.empty(len(store), *batch.shape[1:], device=hardware.device)
        features[start : start + len(batch)] = batch
    return features


def embeddings_of(
    learner: AbstractLearner, store: ImageStore, normalize: Normalize, hardware: Hardware, *, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """What retrieval and clustering compare: flat embeddings `[N, D]` of all images of `store`, and their labels `[N]`.

    **Raises:** `ValueError` for a learner without embeddings.
    """
    if not isinstance(learner, AbstractMetricLearner):
        raise ValueError(
            f"retrieval and clustering compare embeddings, and {type(learner).__name__} has none of its own"
        )
    features = embed(learner.backbone, store, normalize, hardware, progress=progress)
    return features.flatten(1), store.labels.to(features.device)
