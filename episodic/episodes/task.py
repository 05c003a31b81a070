"""The data of an episode: `Task` (all that a learner may see) and `Episode` (a task and its answers)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from episodic.episodes.arguments import integer, refuse
from episodic.episodes.indices import EpisodeIndices, shape_in_words


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A batch of `E` few-shot tasks of one shape. It holds everything that a learner may see, and no label of a query.

    - `support [E, S, *item]`, `support_y [E, S]` (int64, in `0..n_way-1`), `query [E, Q, *item]`, `n_way`.
    - `unlabeled [E, U, *item]` or None; some of it may belong to no class of the task.
    - `n_base`: in incremental tasks, the number of training classes that a query may also belong to; else 0.
    - `class_ids [E, n_way]` or None: in training, which training classes the local labels stand for, for learners
      that have weights for each of these classes. None in evaluation.
    - `second_view`: the same task with its items under another draw of the augmentation, or None; in training, for learners that
      ask for it.

    **Raises:** `ValueError` for parts of other types and shapes, and on the CPU for labels outside of their range.

    >>> task = Task(torch.rand(1, 5, 16), torch.arange(5)[None], torch.rand(1, 75, 16), n_way=5)
    >>> task
    Task(5-way 1-shot, 75 queries)
    >>> task.map(lambda items: items.mean(-1)).query.shape
    torch.Size([1, 75])
    """

    support: Tensor
    support_y: Int64[Tensor, "episode support"]
    query: Tensor
    n_way: int
    unlabeled: Tensor | None = None
    n_base: int = 0
    class_ids: Int64[Tensor, "episode way"] | None = None
    second_view: Task | None = None

    def __post_init__(self):
        n_way, n_base = integer("n_way", self.n_way, at_least=1), integer("n_base", self.n_base, at_least=0)
        object.__setattr__(self, "n_way", n_way)
        object.__setattr__(self, "n_base", n_base)
        for name in ("support", "query", "unlabeled"):
            items = getattr(self, name)
            if items is None and name == "unlabeled":
                continue
            if not isinstance(items, Tensor) or items.ndim < 2:
                refuse(name, "a tensor [episodes, items, ...]", items)
            first, shape = self.support.shape, items.shape
            if shape[0] != first[0] or shape[2:] != first[2:]:
                refuse(name, f"of as many episodes and of items of the same shape as the support {list(first)}", items)
        if n_way > self.support.shape[1]:
            refuse("n_way", f"at most the number of support items, {self.support.shape[1]}", n_way)
        _check_labels("support_y", self.support_y, self.support.shape[:2], n_way)
        if self.class_ids is not None:
            _check_labels("class_ids", self.class_ids, (len(self.support), n_way))

    def __repr__(self) -> str:
        return f"Task({self._in_words()})"

    def _in_words(self) -> str:
        unlabeled = 0 if self.unlabeled is None else self.unlabeled.shape[1]
        sizes = (self.support.shape[1], self.query.shape[1], unlabeled)
        return shape_in_words(len(self.support), self.n_way, *sizes, self.n_base)

    def map(self, f: Callable[[Tensor], Tensor]) -> Task:
        """The task with `f: [item, ...] -> [item, ...]` applied to all its items in one call, so that batch norm sees one batch."""
        parts = [self.support, self.query] + ([] if self.unlabeled is None else [self.unlabeled])
        sizes = [part.shape[1] for part in parts]
        items = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        mapped = f(items.flatten(0, 1))
        support, query, *rest = mapped.unflatten(0, items.shape[:2]).split(sizes, dim=1)
        return dataclasses.replace(self, support=support, query=query, unlabeled=rest[0] if rest else None)


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """A batch of `E` tasks with their answers. A learner sees `episode.task`; its answers are compared with `episode.query_y`.

    - `query_y [E, Q]`: the labels of the queries, in `0..n_way-1`; in incremental episodes `n_way + c` is base class c.
    - `class_ids [E, n_way]`: the data set's label behind each local label.
    - `unlabeled_y [E, U]` or None: labels of the unlabeled items, −1 for a distractor; for analysis only.

    **Raises:** `ValueError` for parts of other types and shapes, and on the CPU for labels outside of their range.

    >>> task = Task(torch.rand(4, 5, 16), torch.arange(5).expand(4, 5), torch.rand(4, 75, 16), n_way=5)
    >>> query_y = torch.arange(5).repeat_interleave(15).expand(4, 75)
    >>> Episode(task, query_y, class_ids=torch.tensor([[8, 3, 1, 0, 2]]).expand(4, 5))
    Episode(4 x 5-way 1-shot, 75 queries)
    """

    task: Task
    query_y: Int64[Tensor, "episode query"]
    class_ids: Int64[Tensor, "episode way"]
    unlabeled_y: Int64[Tensor, "episode unlabeled"] | None = None

    def __post_init__(self):
        task = self.task
        if not isinstance(task, Task):
            refuse("task", "a Task", task)
        _check_labels("query_y", self.query_y, task.query.shape[:2], task.n_way + task.n_base)
        _check_labels("class_ids", self.class_ids, (len(task.support), task.n_way))
        if self.unlabeled_y is not None:
            shape = (len(task.support), 0 if task.unlabeled is None else task.unlabeled.shape[1])
            _check_labels("unlabeled_y", self.unlabeled_y, shape)

    def __len__(self) -> int:
        return len(self.query_y)

    def __repr__(self) -> str:
        return f"Episode({self.task._in_words()})"

    @property
    def answer_class_ids(self) -> Int64[Tensor, "episode answers"]:
        """`[E, n_way + n_base]`: the data set's label behind each possible answer; in incremental episodes base classes follow."""
        base = torch.arange(self.task.n_base, device=self.class_ids.device).expand(len(self), -1)
        return torch.cat([self.class_ids, base], dim=1)

    def _map_tensors(self, f: Callable[[Tensor], Tensor]) -> Episode:
        def over(thing):
            changed = {
                field.name: f(value)
                for field in dataclasses.fields(thing)
                if isinstance(value := getattr(thing, field.name), Tensor)
            }
            return dataclasses.replace(thing, **changed)

        return dataclasses.replace(over(self), task=over(self.task))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Episode:
        """The same episode on `device`."""
        return self._map_tensors(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Episode:
        """The same episode in page-locked memory (called by a `DataLoader` with `pin_memory=True`)."""
        return self._map_tensors(Tensor.pin_memory)

    def as_tuple(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`(support, support_y, query, query_y, class_ids)`, the order that easyfsl's users know."""
        return self.task.support, self.task.support_y, self.task.query, self.query_y, self.class_ids


def _check_labels(name: str, labels: Tensor, shape: tuple[int, int], classes: int | None = None) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != shape:
        refuse(name, f"an int64 tensor {list(shape)}", labels)
    # To look at labels on a GPU would mean to wait for it.
    if classes is None or labels.device.type != "cpu" or not labels.numel():
        return
    if labels.numpy().view(np.uint64).max() >= classes:  # a negative label reads as a large number
        least, most = labels.aminmax()
        raise ValueError(f"{name} must be in 0..{classes - 1}, got labels from {least} to {most}")


def gather_episode(indices: EpisodeIndices, gather: Callable[[Tensor], Tensor], device: torch.device | str) -> Episode:
    """The episodes at `indices`, with their items. `gather: int64 [E, items] -> [E, items, *item]` is called once, for all items.

    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> indices = EpisodeSampler(labels=[0, 0, 0, 1, 1, 1], n_way=2, n_shot=1, n_query=2)[0:3]
    >>> features = torch.rand(6, 16)
    >>> gather_episode(indices, lambda index: features[index], "cpu")
    Episode(3 x 2-way 1-shot, 4 queries)
    """
    sizes = [indices.support.shape[1], indices.query.shape[1], indices.unlabeled.shape[1]]
    every = torch.from_numpy(np.concatenate([indices.support, indices.query, indices.unlabeled], axis=1))
    support, query, unlabeled = gather(every).to(device, non_blocking=True).split(sizes, dim=1)

    def labels(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device, non_blocking=True)

    has_unlabeled = sizes[2] > 0
    return Episode(
        task=Task(
            support=support,
            support_y=labels(indices.support_y),
            query=query,
            n_way=indices.n_way,
            unlabeled=unlabeled if has_unlabeled else None,
            n_base=indices.n_base,
        ),
        query_y=labels(indices.query_y),
        class_ids=labels(indices.class_ids),
        unlabeled_y=labels(indices.unlabeled_y) if has_unlabeled else None,
    )
