"""Parts of a store: chosen images, or a fold of its classes."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch

from episodic.data.store import ImageStore
from episodic.episodes.arguments import choice, integer


def restricted(store: ImageStore, seen: np.ndarray) -> ImageStore:
    """The store with only the images of the mask `seen [N]`. All classes keep their numbers."""
    if seen.all():
        return store
    kept = torch.from_numpy(np.flatnonzero(seen))
    names = tuple(store.item_names[i] for i in kept.tolist()) if store.item_names else ()
    return dataclasses.replace(store, images=store.gather(kept), labels=store.labels[kept], item_names=names)


def fold_of(store: ImageStore, split: str, fold: int, folds: int) -> ImageStore:
    """The part of the training classes that one fold of a cross-validation uses: part number `fold` of `folds` for
    `split="val"`, all others for `"train"`.

    The parts are contiguous ranges of classes of nearly equal size, as in Musgrave, Belongie, Lim: *A Metric Learning Reality
    Check*, ECCV 2020, https://arxiv.org/abs/2003.08505. Images are copied into memory.

    **Raises:** `ValueError` for a fold that does not exist, or more folds than classes.
    """
    classes = len(store.class_names)
    choice("split", split, Literal["train", "val"])
    folds = integer("task.folds", folds, at_least=2, below=classes + 1, note=f", of {classes} training classes")
    fold = integer("task.fold", fold, at_least=0, below=folds, note=", task.folds")
    inside = np.arange(classes) * folds // classes == fold
    wanted = inside if split == "val" else ~inside
    kept = np.flatnonzero(wanted)
    part = restricted(store, wanted[store.labels.numpy()])
    return dataclasses.replace(
        part,
        labels=torch.from_numpy(np.cumsum(wanted) - 1)[part.labels],
        class_names=tuple(store.class_names[c] for c in kept),
        super_classes=None if store.super_classes is None else store.super_classes[torch.from_numpy(kept)],
        split=split,
        split_name=f"{store.split_name}, fold {fold} of {folds}",
    )
