"""To and from code written for learn2learn (0.2.0), easyfsl (1.5.0) and torchmeta (1.8.0). None of them need be installed.

One line of your code changes: the one that makes the object which draws the episodes.

- learn2learn: `tasks = Tasks(dataset, EpisodeSampler(labels, 5, 1, 15))` in place of `TaskDataset`, with
  `labels = labels_of(meta_dataset)`.
- easyfsl: `from episodic.interop import TaskSampler`, with the same arguments.
- torchmeta: `BatchMetaDataLoader(dataset, EpisodeSampler(labels, 5, 1, 15, episodes_per_batch=16))` in place of its own class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from episodic.episodes.arguments import integer, integers, refuse
from episodic.episodes.collate import EpisodeCollate, stacked
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler

FIX = "give it the labels of this data set in its order, for a Subset [labels[i] for i in subset.indices]"


def labels_of(meta_dataset: Any) -> list[int]:
    """The labels of a learn2learn `MetaDataset`, in the order of its items. `EpisodeSampler` takes them.

    **Raises:** `ValueError` for something that is not a `MetaDataset`, or for an item without a label.

    >>> from types import SimpleNamespace
    >>> labels_of(SimpleNamespace(indices_to_labels={0: 3, 2: 5, 1: 3}))  # stands for a MetaDataset
    [3, 3, 5]
    """
    labels = getattr(meta_dataset, "indices_to_labels", None)
    if not isinstance(labels, Mapping):
        raise ValueError(f"a learn2learn MetaDataset has indices_to_labels; {type(meta_dataset).__name__} has not")
    missing = [i for i in range(len(labels)) if i not in labels]
    if missing:
        raise ValueError(f"indices_to_labels must name the items 0..{len(labels) - 1}; {missing[0]} is missing")
    return integers("indices_to_labels", [labels[i] for i in range(len(labels))]).tolist()


class Tasks:
    """Episodes for code written for learn2learn's `TaskDataset`. Each task is a pair `(data, labels)`.

    `data [n_way * (K + Q), *item]` and `labels` (int64, `0..n_way-1`) come class by class, the K support items of a class
    before its Q queries, so the usual slicing works: sort by label (they are sorted), then take the first K of each class.

    **Arguments:** `dataset`, map-style, of `(x, label, ...)`; `sampler`, without unlabeled items and imbalance. Task `i` is
    the sampler's episode `i`; `sample()` gives the next one, and the first again after the last.

    **Raises:** `ValueError` for a sampler with unlabeled items or imbalance, and for one that has other labels than the data set.

    >>> labels = [0, 0, 0, 1, 1, 1]
    >>> dataset = [(torch.tensor([float(i)]), y) for i, y in enumerate(labels)]
    >>> tasks = Tasks(dataset, EpisodeSampler(labels, n_way=2, n_shot=1, n_query=2, episodes=100))
    >>> data, y = tasks.sample()
    >>> data.shape, y
    (torch.Size([6, 1]), tensor([0, 0, 0, 1, 1, 1]))
    """

    def __init__(self, dataset: Sequence, sampler: EpisodeSampler):
        _check(dataset, sampler, "learn2learn's tasks")
        self.dataset = dataset
        self.sampler = sampler
        self._next = 0

    def __len__(self) -> int:
        return self.sampler.episodes

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        indices = self.sampler[index]
        items = _class_by_class(indices)
        data, labels = stacked([self.dataset[i] for i in items])
        each = len(items) // indices.n_way
        if (labels != indices.class_ids[0].repeat(each)).any():
            raise ValueError(f"the labels of the data set's items are not those that the sampler was given: {FIX}")
        return data, torch.arange(indices.n_way).repeat_interleave(each)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))

    def sample(self) -> tuple[Tensor, Tensor]:
        """The next task. After the last one comes the first again."""
        task = self[self._next]
        self._next = (self._next + 1) % len(self)
        return task


class TaskSampler(Sampler[list[int]]):
    """Episodes for code written for easyfsl's class of this name. It is a batch sampler with its own `collate_fn`.

        sampler = TaskSampler(dataset, n_way=5, n_shot=1, n_query=15, n_tasks=500)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)

    Each batch holds the indices of one task class by class, the support items of a class before its queries. As with easyfsl,
    each iteration gives other tasks: the k-th iteration, counted from 0, is epoch k of `EpisodeSampler`. `set_epoch` chooses
    the epoch of the next one.

    **Arguments:** `dataset`, map-style, of `(image tensor, label)`, with easyfsl's `get_labels()`: one integer for each item.
    `n_way`, `n_shot`, `n_query`: classes of a task, support and query items of each. `n_tasks`: tasks in one iteration. `seed`:
    the seed of all draws.

    **Raises:** `ValueError` for a data set without `get_labels()`, and for a task that cannot be drawn, with the numbers.

    >>> class Points(list):
    ...     def get_labels(self):
    ...         return [label for _, label in self]
    >>> dataset = Points((torch.tensor([float(i)]), i // 3) for i in range(6))
    >>> sampler = TaskSampler(dataset, n_way=2, n_shot=1, n_query=2, n_tasks=100)
    >>> loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    >>> support, support_labels, query, query_labels, true_class_ids = next(iter(loader))
    >>> support.shape, query.shape, true_class_ids
    (torch.Size([2, 1]), torch.Size([4, 1]), [0, 1])
    """

    def __init__(self, dataset: Any, n_way: int, n_shot: int, n_query: int, n_tasks: int, *, seed: int = 0):
        if not callable(getattr(dataset, "get_labels", None)):
            raise ValueError(
                f"easyfsl's data sets have get_labels(), and {type(dataset).__name__} has not; "
                "episodic.EpisodeSampler takes the labels themselves"
            )
        given = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "n_tasks": n_tasks}
        *shape, n_tasks = (integer(name, value, at_least=1) for name, value in given.items())
        self.n_way, self.n_shot, self.n_query = shape
        labels = integers("labels of get_labels()", dataset.get_labels())
        self.sampler = EpisodeSampler(labels, *shape, episodes=n_tasks, seed=seed)
        _check_length(dataset, self.sampler)
        self._next_epoch = 0

    def __len__(self) -> int:
        return self.sampler.episodes

    def __iter__(self) -> Iterator[list[int]]:
        self.sampler.set_epoch(self._next_epoch)
        self._next_epoch += 1
        return (_class_by_class(self.sampler[i]) for i in range(len(self)))

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self._next_epoch = integer("epoch", epoch)

    def episodic_collate_fn(
        self, items: Sequence[tuple[Tensor, Tensor | int]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int]]:
        """`(support_images, support_labels, query_images, query_labels, true_class_ids)` of the items of one batch.

        Images `[n_way * n_shot, *item]` and `[n_way * n_query, *item]`, labels int64 `[n_way * n_shot]` and `[n_way * n_query]`,
        class by class; a label is a place in `true_class_ids`, the `n_way` labels of the data set.
        """
        x, labels = stacked(items)
        if len(labels) != self.n_way * (self.n_shot + self.n_query):
            raise ValueError(f"items must be those of one batch of {self.sampler}, got {len(labels)} items")
        labels = labels.tolist()
        true_class_ids = list(set(labels))  # in the order of a set, as easyfsl has them
        y = torch.tensor([true_class_ids.index(label) for label in labels])
        sizes = [self.n_shot, self.n_query]
        support, query = (part.flatten(0, 1) for part in x.unflatten(0, (self.n_way, -1)).split(sizes, dim=1))
        support_y, query_y = (part.flatten() for part in y.unflatten(0, (self.n_way, -1)).split(sizes, dim=1))
        return support, support_y, query, query_y, true_class_ids


class BatchMetaDataLoader(DataLoader):
    """Episodes for code written for torchmeta's class of this name. Each batch is `{"train": (inputs, targets), "test": ...}`.

    `inputs [E, n_way * k, *item]` and `targets [E, n_way * k]` (int64, `0..n_way-1`), class by class, of `E` tasks; `k` is the
    `n_shot` of the sampler for `"train"` and its `n_query` for `"test"` (torchmeta's `shots` and `test_shots`). torchmeta numbers
    the classes of a task at random; here they are numbered in the order of the sampler.

    **Arguments:** `dataset`, map-style, of `(x, label, ...)`; `sampler`, whose `episodes_per_batch` is torchmeta's `batch_size`,
    without unlabeled items and imbalance; `settings` of `DataLoader`, such as `num_workers`.

    **Raises:** `ValueError` for a sampler with unlabeled items or imbalance.

    >>> labels = [0, 0, 0, 1, 1, 1]
    >>> dataset = [(torch.tensor([float(i)]), y) for i, y in enumerate(labels)]
    >>> sampler = EpisodeSampler(labels, n_way=2, n_shot=1, n_query=2, episodes=100, episodes_per_batch=4)
    >>> batch = next(iter(BatchMetaDataLoader(dataset, sampler)))
    >>> inputs, targets = batch["test"]
    >>> inputs.shape, targets[0]
    (torch.Size([4, 4, 1]), tensor([0, 0, 1, 1]))
    """

    def __init__(self, dataset: Dataset | Sequence, sampler: EpisodeSampler, **settings: Any):
        _check(dataset, sampler, "torchmeta's batches")
        super().__init__(dataset, batch_sampler=sampler, collate_fn=_TrainTestCollate(sampler), **settings)


class _TrainTestCollate:
    def __init__(self, sampler: EpisodeSampler):
        self.collate = EpisodeCollate(sampler)

    def __call__(self, items: Any) -> dict[str, tuple[Tensor, Tensor]]:
        support, support_y, query, query_y, _ = self.collate(items).as_tuple()
        return {"train": (support, support_y), "test": (query, query_y)}


def _check(dataset: Any, sampler: EpisodeSampler, what: str) -> None:
    if not isinstance(sampler, EpisodeSampler):
        refuse("sampler", "an EpisodeSampler", sampler)
    if not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__getitems__")):
        refuse("dataset", "map-style, with items by number", dataset)
    _check_length(dataset, sampler)
    if sampler.imbalanced or sampler.shape["n_unlabeled"] != (0, 0):
        raise ValueError(f"{what} have neither unlabeled items nor unequal shots")


def _check_length(dataset: Any, sampler: EpisodeSampler) -> None:
    if hasattr(dataset, "__len__") and len(dataset) != sampler.n_items:
        raise ValueError(
            f"the dataset has {len(dataset)} items, but the sampler was given {sampler.n_items} labels: {FIX}"
        )


def _class_by_class(indices: EpisodeIndices) -> list[int]:
    """The items of one episode: each class's support, then its queries, then the next class."""
    roles = [role.reshape(indices.n_way, -1) for role in (indices.support, indices.query)]
    return np.concatenate(roles, axis=1).reshape(-1).tolist()
