"""Embeddings of all images of a store, computed once."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from episodic.core.transforms.transform import AbstractCentered
from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.run.device import Hardware
from episodic.run.distributed import fill_from_all, from_first, is_first, process_number, shares

EMBED_BATCH = 256  # images embedded at once in evaluation
FITTED = 4096  # training images that a transform is fitted on; the mean of so many is 64 times as sure as one
CHUNK_BYTES = 2**24  # of gathered features; larger chunks leave the processor's cache


@torch.inference_mode()
def embed(
    backbone: nn.Module, store: ImageStore, normalize: Normalize, hardware: Hardware, *, progress: bool = False
) -> Tensor:
    """The features that a backbone gives all images of a store. They are float32 `[N, *shape]` on the hardware's device, and
    `backbone` is left in eval mode. Several processes share the batches, and each gets all features.

    **Arguments:** `progress` (default false): whether to show a bar.

    >>> images, labels = torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0, 0, 1])
    >>> store = ImageStore(images, labels, ("cat", "dog"), ("a", "b", "c"), None, (), "pets", "val", "ours")
    >>> embed(nn.Flatten(), store, Normalize([0.5], [0.5]), Hardware.choose("cpu", "fp32"))
    tensor([[1., 1., 1., 1.],
            [1., 1., 1., 1.],
            [1., 1., 1., 1.]])
    """
    backbone.eval()
    features = None
    bounds = shares(len(store), EMBED_BATCH)
    starts = range(*bounds[process_number() :][:2], EMBED_BATCH)
    progress = progress and is_first()
    for start in tqdm(starts, desc=f"embedding {store.split}", disable=None if progress else True, leave=False):
        images = store.images[start : start + EMBED_BATCH].to(hardware.device, non_blocking=True)
        with hardware.autocast():
            batch = backbone(normalize(images))
        if features is None:
            features = torch.empty(len(store), *batch.shape[1:], device=hardware.device)
        features[start : start + len(batch)] = batch
    shape = from_first(lambda: tuple(features.shape))
    features = torch.empty(shape, device=hardware.device) if features is None else features
    fill_from_all(features, bounds)
    return features


def embeddings_of(
    learner: AbstractLearner, store: ImageStore, normalize: Normalize, hardware: Hardware, *, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """The embeddings of all images of a store, flattened to `[N, D]`, and their labels `[N]`. Retrieval and clustering compare
    them.

    **Raises:** `ValueError` for a learner without embeddings.
    """
    if not isinstance(learner, AbstractMetricLearner):
        raise ValueError(
            f"retrieval and clustering compare embeddings, and {type(learner).__name__} has none of its own"
        )
    features = embed(learner.backbone, store, normalize, hardware, progress=progress)
    return features.flatten(1), store.labels.to(features.device)


def fit_transforms(
    learner: AbstractLearner,
    store: ImageStore,
    normalize: Normalize,
    hardware: Hardware,
    seen: np.ndarray | None = None,
) -> None:
    """Fit the transforms of embeddings that need it, such as `cl2n`, on training images of `store` as the network embeds them now,
    without augmentation. They are up to 4,096, at even distances. The learner's mode stays as it is.

    **Arguments:** `seen` (default None): which images may be used, booleans `[N]`; None for all.

    >>> from episodic.core.backbones.conv4 import Conv4
    >>> from episodic.core.transforms.center import Center
    >>> from episodic.learners.prototypical import Prototypical
    >>> images, labels = torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8), torch.arange(6) // 3
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple("abcdef"), None, (), "pets", "train", "ours")
    >>> learner, hardware = Prototypical(Center(Conv4(1, 16))), Hardware.choose("cpu", "fp32")
    >>> fit_transforms(learner, store, Normalize([0.5], [0.5]), hardware)
    >>> bool(embed(learner.backbone, store, Normalize([0.5], [0.5]), hardware).mean(0).abs().max() < 1e-6)
    True
    """
    transforms = [module for module in learner.modules() if isinstance(module, AbstractCentered)]
    if not transforms:
        return
    allowed = np.arange(len(store)) if seen is None else np.flatnonzero(seen)
    chosen = allowed[np.linspace(0, len(allowed) - 1, min(FITTED, len(allowed))).round().astype(int)]
    items = torch.from_numpy(chosen)
    names = tuple(store.item_names[i] for i in chosen)
    sample = dataclasses.replace(store, images=store.gather(items), labels=store.labels[items], item_names=names)
    training = {module: module.training for module in learner.modules()}
    for transform in transforms:
        transform.fit(embed(transform.body, sample, normalize, hardware))
    for module, mode in training.items():
        module.training = mode
