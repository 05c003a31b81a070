"""To and from code written for learn2learn (0.2.0), which need not be installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from episodic.sampler import EpisodeSampler


def labels_of(meta_dataset: Any) -> list[int]:
    """The labels of a learn2learn `MetaDataset`, in the order of its items, for `EpisodeSampler`.

    **Raises:** `ValueError` where it is no `MetaDataset`, or some item has no label.
    """
    labels = getattr(meta_dataset, "indices_to_labels", None)
    if labels is None:
        raise ValueError(f"a learn2learn MetaDataset has indices_to_labels; {type(meta_dataset).__name__} has not")
    missing = [i for i in range(len(labels)) if i not in labels]
    if missing:
        raise ValueError(f"indices_to_labels must name the items 0..{len(labels) - 1}; {missing[0]} is missing")
    return [int(labels[i]) for i in range(len(labels))]


class Tasks:
    """Our episodes for code written for learn2learn's `TaskDataset`: each is `(data, labels)`.

    `data [n_way * (K + Q), *item]` and `labels` (int64, `0..n_way-1`) come class by class, the K support items of a class
    before its Q queries, so that the usual slicing finds them: sort by label (they are sorted), take the first K of each.

    **Arguments:** `dataset`, map-style, of `(x, label, ...)`; `sampler`, without unlabeled items and imbalance. Task `i` is
    the sampler's episode `i`; `sample()` gives the next one, starting anew after the last.
    """

    def __init__(self, dataset: Sequence, sampler: EpisodeSampler):
        if sampler.imbalanced or sampler.shape["n_unlabeled"] != (0, 0):
            raise ValueError("learn2learn's tasks have neither unlabeled items nor unequal shots")
        self.dataset = dataset
        self.sampler = sampler
        self._next = 0

    def __len__(self) -> int:
        return self.sampler.episodes

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        indices = self.sampler[index]
        by_class = [x.reshape(indices.n_way, -1) for x in (indices.support, indices.query)]
        items = torch.cat([torch.as_tensor(x.copy()) for x in by_class], dim=1)
        data = torch.stack([torch.as_tensor(self.dataset[i][0]) for i in items.flatten().tolist()])
        return data, torch.arange(indices.n_way).repeat_interleave(items.shape[1])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))

    def sample(self) -> tuple[Tensor, Tensor]:
        task = self[self._next]
        self._next = (self._next + 1) % len(self)
        return task
