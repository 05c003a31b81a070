"""Images of training classes that training does not see, for incremental episodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from episodic.data.labels.fraction import labeled_mask
from episodic.data.store import ImageStore
from episodic.episodes.arguments import integers, number


def held_out_masks(labels: np.ndarray, fraction: float) -> dict[str, np.ndarray]:
    """Which images of the training classes belong to `"train"`, `"val"` and `"test"`: three disjoint masks `[N]`. A `fraction`
    of the images of each class is held out, half of it for validation, half for test.

    **Raises:** `ValueError` for a fraction that leaves one of the three without images.

    >>> {name: int(mask.sum()) for name, mask in held_out_masks(np.repeat([0, 1], 10), fraction=0.4).items()}
    {'train': 12, 'val': 4, 'test': 4}
    """
    fraction = number("task.held_out", fraction, above=0, below=1, note=" in an incremental task")
    labels = integers("labels", labels, at_least=0)
    train = labeled_mask(labels, 1 - fraction, seed=0)
    rest = np.flatnonzero(~train)
    val = np.zeros_like(train)
    val[rest[labeled_mask(labels[rest], 0.5, seed=0)]] = True
    masks = {"train": train, "val": val, "test": ~train & ~val}
    for name, mask in masks.items():
        if np.bincount(labels[mask], minlength=labels.max(initial=0) + 1).min() == 0:
            raise ValueError(f"task.held_out={fraction} leaves a training class without images for {name}")
    return masks


def join_base(base: ImageStore, mask: np.ndarray, novel: ImageStore) -> ImageStore:
    """Joins two stores: the images of `base` in `mask`, then all images of `novel`. The labels of `novel` follow those of `base`.

    Super-classes are dropped: an incremental episode does not use them.
    """
    n_base = len(base.class_names)
    kept = torch.from_numpy(np.flatnonzero(mask))
    base_names = tuple(base.item_names[i] for i in kept.tolist()) if base.item_names else ()
    return dataclasses.replace(
        novel,
        images=torch.cat([base.gather(kept), novel.images]),
        labels=torch.cat([base.labels[kept], novel.labels + n_base]),
        class_names=base.class_names + novel.class_names,
        item_names=base_names + novel.item_names,
        super_classes=None,
        super_class_names=(),
        skipped=base.skipped + novel.skipped,
        n_base=n_base,
    )
