"""Items of a data set in, an `Episode` out: the `collate_fn` of a `DataLoader`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from episodic.episodes.sampler import EpisodeSampler
from episodic.episodes.task import Episode, Task

Stacked = Tensor | np.ndarray


class Items(Sequence):
    """A list of items `(x[i], y[i])` that is stored as two arrays. `EpisodeCollate` takes the arrays without a copy.

    A data set's `__getitems__` can return it. torch's default collation, which takes lists of items only, accepts it too.

    >>> Items(torch.tensor([1.5, 2.5]), torch.tensor([0, 7]))[1]
    (tensor(2.5000), 7)
    """

    def __init__(self, x: Stacked, y: Stacked):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Stacked, int]:
        return self.x[index], int(self.y[index])


class EpisodeCollate:
    """Turns the items of one batch of an `EpisodeSampler` into an `Episode`. It is a `collate_fn` for `DataLoader`.

    >>> from torch.utils.data import DataLoader
    >>> dataset = [(torch.rand(3, 8, 8), label) for label in [0, 0, 0, 1, 1, 1, 2, 2, 2]]
    >>> sampler = EpisodeSampler([label for _, label in dataset], n_way=2, n_shot=1, n_query=2)
    >>> loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))
    >>> next(iter(loader))
    Episode(2-way 1-shot, 4 queries)

    Items are `(x, label, ...)`, with the labels that the sampler was given; `x` is a tensor or an array, of one shape.
    A data set with `__getitems__(indices)` may hand over a whole batch at once, which is many times faster: `Items`, or a
    tuple of two tensors or arrays, all `x` stacked and all labels. A list is always read as a list of items.

    Where the sampler draws shapes from ranges, or unequal shots, the shape is read off the labels: support, query and
    unlabeled items come class by class, so the runs of equal labels tell where each role ends.

    **Raises:** `ValueError` where the labels do not fit the sampler's layout (other labels were given to the sampler).
    """

    def __init__(self, sampler: EpisodeSampler):
        self.shape = dict(sampler.shape)
        self.imbalanced = sampler.imbalanced

    def __call__(self, items: Items | tuple[Stacked, Stacked] | Sequence[Sequence]) -> Episode:
        x, labels = _stacked(items)
        way, shot, query, unlabeled, distractors = self._shape_of(labels)
        sizes = [way * shot, way * query, (way + distractors) * unlabeled]
        y = labels.reshape(-1, sum(sizes))
        last = sizes[0] + sizes[1]
        support_ids, query_ids, unlabeled_ids = y[:, : sizes[0]], y[:, sizes[0] : last], y[:, last:]
        # Class by class: a class starts wherever the label changes, so the first query of each names them in order.
        class_ids = query_ids[:, ::query]
        match = support_ids[..., None] == class_ids[:, None]
        by_class = query_ids.reshape(len(y), way, query)
        if not (match.sum(-1) == 1).all() or not (by_class == class_ids[..., None]).all():
            raise ValueError(
                "the items' labels are not laid out as the sampler's episodes: give EpisodeSampler the labels that the "
                "data set returns, in the data set's order"
            )
        support, queries, rest = x.unflatten(0, (len(y), -1)).split(sizes, dim=1)
        unlabeled_y = None
        if sizes[2]:
            unlabeled_match = unlabeled_ids[..., None] == class_ids[:, None]
            unlabeled_y = torch.from_numpy(np.where(unlabeled_match.any(-1), unlabeled_match.argmax(-1), -1))
        return Episode(
            task=Task(support, torch.from_numpy(match.argmax(-1)), queries, way, rest if sizes[2] else None),
            query_y=torch.arange(way).repeat_interleave(query).expand(len(y), -1),
            class_ids=torch.from_numpy(np.ascontiguousarray(class_ids)),
            unlabeled_y=unlabeled_y,
        )

    def _shape_of(self, labels: np.ndarray) -> tuple[int, int, int, int, int]:
        """(way, shot, query, unlabeled, distractors): fixed by the sampler, or read off the runs of equal labels."""
        ranges = list(self.shape.values())
        if all(low == high for low, high in ranges):
            return tuple(low for low, _ in ranges)
        bounds = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1, append=labels[-1] - 1))
        runs = list(zip(labels[bounds[:-1]], np.diff(bounds), strict=True))
        names = [label for label, _ in runs]
        way = names.index(names[0], 1) if names[0] in names[1:] else len(names)
        if way == 1 or len(runs) < 2 * way:
            raise ValueError(
                "with ranges, n_way must be at least 2 for the shape of a batch to be told from its labels"
            )
        shot, query = int(sum(n for _, n in runs[:way])) // way, int(runs[way][1])
        most_unlabeled, most_distractors = ranges[3][1], ranges[4][1]
        third = runs[2 * way] if len(runs) > 2 * way else (None, 0)
        # The class that comes first comes third as well, as unlabeled or because the next episode starts with it.
        for unlabeled in [int(third[1]), 0] if third[0] == names[0] and most_unlabeled else [0]:
            for distractors in range(ranges[4][0], most_distractors + 1) if unlabeled else [ranges[4][0]]:
                length = way * (shot + query + unlabeled) + distractors * unlabeled
                if len(labels) % length == 0 and self._repeats(labels.reshape(-1, length), way, shot, query):
                    return way, shot, query, unlabeled, distractors
        raise ValueError("the items' labels are not laid out as the sampler's episodes")

    @staticmethod
    def _repeats(y: np.ndarray, way: int, shot: int, query: int) -> bool:
        """Whether every row starts with a support of `way` classes and goes on with their queries in the same order."""
        support, queries = y[:, : way * shot], y[:, way * shot : way * (shot + query)].reshape(len(y), way, query)
        first = queries[..., 0]
        return bool((queries == first[..., None]).all() and (support[..., None] == first[:, None]).any(-1).all())


def _stacked(items: Items | tuple[Stacked, Stacked] | Sequence[Sequence]) -> tuple[Tensor, np.ndarray]:
    """All `x` and all labels of a batch."""
    if isinstance(items, Items):
        items = items.x, items.y
    if isinstance(items, tuple) and len(items) == 2 and all(isinstance(part, Stacked) for part in items):
        return torch.as_tensor(items[0]), np.asarray(items[1], dtype=np.int64)
    xs, labels = [item[0] for item in items], np.array([int(item[1]) for item in items])
    return (torch.stack(xs) if isinstance(xs[0], Tensor) else torch.from_numpy(np.stack(xs))), labels
