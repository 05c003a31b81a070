"""Items of a data set in, an `Episode` out: the `collate_fn` of a `DataLoader`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from episodic.episodes.arguments import integers, refuse
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

    **Raises:** `ValueError` for a sampler with ranges whose episodes may have a single class, which has no such runs, and where the
    items do not fit the sampler's layout (other labels were given to the sampler).
    """

    def __init__(self, sampler: EpisodeSampler):
        if not isinstance(sampler, EpisodeSampler):
            refuse("sampler", "an EpisodeSampler", sampler)
        if sampler.shape["n_way"][0] == 1 and any(low != high for low, high in sampler.shape.values()):
            raise ValueError(
                "n_way must be at least 2 where a number of the shape is a range, or the shape of a batch cannot be told from its "
                f"labels, got n_way from 1 in {sampler}"
            )
        self.shape = dict(sampler.shape)
        self.imbalanced = sampler.imbalanced

    def __call__(self, items: Items | tuple[Stacked, Stacked] | Sequence[Sequence]) -> Episode:
        x, labels = stacked(items)
        way, shot, query, unlabeled, distractors = self._shape_of(labels)
        sizes = [way * shot, way * query, (way + distractors) * unlabeled]
        if len(labels) % sum(sizes):
            _refuse_layout(len(labels))
        y = labels.reshape(-1, sum(sizes))
        last = sizes[0] + sizes[1]
        support_ids, query_ids, unlabeled_ids = y[:, : sizes[0]], y[:, sizes[0] : last], y[:, last:]
        # Class by class: a class starts wherever the label changes, so the first query of each names them in order.
        class_ids = query_ids[:, ::query]
        match = support_ids[..., None] == class_ids[:, None]
        by_class = query_ids.reshape(len(y), way, query)
        if not (match.sum(-1) == 1).all() or not (by_class == class_ids[..., None]).all():
            _refuse_layout(len(labels))
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
        if len(runs) < 2 * way:
            _refuse_layout(len(labels))
        shot, query = int(sum(n for _, n in runs[:way])) // way, int(runs[way][1])
        most_unlabeled, most_distractors = ranges[3][1], ranges[4][1]
        third = runs[2 * way] if len(runs) > 2 * way else (None, 0)
        # The class that comes first comes third as well, as unlabeled or because the next episode starts with it.
        for unlabeled in [int(third[1]), 0] if third[0] == names[0] and most_unlabeled else [0]:
            for distractors in range(ranges[4][0], most_distractors + 1) if unlabeled else [ranges[4][0]]:
                if _fits(labels, way, shot, query, unlabeled, distractors):
                    return way, shot, query, unlabeled, distractors
        _refuse_layout(len(labels))


def _fits(labels: np.ndarray, way: int, shot: int, query: int, unlabeled: int, distractors: int) -> bool:
    """Whether the labels are those of episodes of that shape. All roles are looked at, since two short episodes may begin as a
    long one.
    """
    sizes = [way * shot, way * query, way * unlabeled, distractors * unlabeled]
    if len(labels) % sum(sizes):
        return False
    support, queries, own, others = np.split(labels.reshape(-1, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    classes = queries[:, ::query]
    return bool(
        np.array_equal(queries, classes.repeat(query, axis=1))
        and np.array_equal(own, classes.repeat(unlabeled, axis=1))
        and (support[..., None] == classes[:, None]).any(-1).all()
        and not (others[..., None] == classes[:, None]).any()
        and np.array_equal(others, others[:, :: max(unlabeled, 1)].repeat(unlabeled, axis=1))
    )


def stacked(items: Items | tuple[Stacked, Stacked] | Sequence[Sequence]) -> tuple[Tensor, np.ndarray]:
    """All `x [N, *item]` and all labels `[N]` of a batch of items, in any of the forms that `EpisodeCollate` takes.

    **Raises:** `ValueError` for anything else.

    >>> stacked([(torch.tensor([0.5]), 3), (torch.tensor([1.5]), 0)])
    (tensor([[0.5000],
            [1.5000]]), array([3, 0]))
    """
    if isinstance(items, Items):
        items = items.x, items.y
    if isinstance(items, tuple) and len(items) == 2 and all(isinstance(part, Stacked) for part in items):
        x, labels = torch.as_tensor(items[0]), items[1]
    else:
        try:
            parts, labels = [item[0] for item in items], [item[1] for item in items]
            x = torch.stack(parts) if isinstance(parts[0], Tensor) else torch.from_numpy(np.stack(parts))
            labels = torch.stack(labels) if all(isinstance(y, Tensor) for y in labels) else labels
        except (TypeError, IndexError, KeyError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"items must be pairs of x and label, all x of one shape and type ({reason})") from None
    labels = integers("labels of the items", labels)
    if not 0 < len(labels) == len(x):
        raise ValueError(f"items must be as many x as labels, at least one, got {len(x)} and {len(labels)}")
    return x, labels


def _refuse_layout(count: int) -> NoReturn:
    raise ValueError(
        f"the labels of the {count} items are not laid out as the sampler's episodes: give EpisodeSampler the labels that the data "
        "set returns, in the data set's order, for a Subset [labels[i] for i in subset.indices]"
    )
