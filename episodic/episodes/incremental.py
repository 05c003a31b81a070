"""Incremental few-shot episodes: a few new classes, asked together with the classes that were learned before."""

from __future__ import annotations

import dataclasses

import numpy as np

from episodic.episodes.arguments import booleans, integer, integers
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler, Numbers, TooSmall, items_needed


def incremental_items_needed(
    n_way: int, n_shot: int, n_query: int, base_way: int, base_query: int, *, only_base: bool = False
) -> tuple[int, int]:
    """How many items a new class and a base class must have to appear in an incremental episode: two numbers.

    With `only_base`, as in training, base classes play the part of new ones, and both numbers are equal.

    >>> incremental_items_needed(5, 1, 5, base_way=5, base_query=5)
    (6, 6)
    >>> incremental_items_needed(5, 5, 5, base_way=5, base_query=10, only_base=True)
    (15, 15)
    """
    of_new, of_base = _shapes(n_way, n_shot, n_query, base_way, base_query, only_base=only_base)
    return items_needed(of_new)[0], items_needed(of_base)[0]


def _shapes(
    n_way: int, n_shot: int, n_query: int, base_way: int, base_query: int, *, only_base: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """The shapes of the two draws: of new classes, and of base classes. With `only_base` both are the same draw.

    `EpisodeSampler` draws at least one shot, so a base class is drawn with one support item that is not used.
    """
    if only_base:
        both = {"n_way": n_way + base_way, "n_shot": n_shot, "n_query": max(n_query, base_query)}
        return both, both
    new = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query}
    return new, {"n_way": base_way, "n_shot": 1, "n_query": base_query}


class IncrementalEpisodes:
    """Episodes of new classes, with further queries of base classes. A learner must choose among all classes of both kinds.

    Labels below `n_base` are base classes, and new classes are drawn from the other labels. If there are no others, as in
    training, some base classes play the part of new ones, and the base queries of the episode come from the rest.

    An episode's query has `n_way * n_query` items of new classes, with labels `0..n_way-1`, then `base_way * base_query`
    items of base classes, with labels `n_way + c` for base class c. Base classes of an episode are distinct.

    Ren, Liao, Fetaya, Zemel: *Incremental Few-Shot Learning with Attention Attractor Networks*, NeurIPS 2019,
    https://arxiv.org/abs/1810.07218. As `EpisodeSampler`, episode `i` is a pure function of `(seed, epoch, i)`.

    A base class must have one item more than `base_query`.

    >>> episodes = IncrementalEpisodes(
    ...     labels=[0] * 9 + [1] * 9 + [2] * 9 + [3] * 9, n_base=2, n_way=2, n_shot=1, n_query=2, base_way=1, base_query=2
    ... )
    >>> episodes
    IncrementalEpisodes(2-way 1-shot 2-query, 1 of 2 base classes with 2 queries each, 1000 episodes, seed 0)
    >>> episodes[0].class_ids, episodes[0].query_y  # labels from 2 on are those of base classes
    (array([[2, 3]]), array([[0, 0, 1, 1, 3, 3]]))

    **Arguments:** `labels [N]`, integers from 0; `labeled [N]` booleans or None, the items to draw from; the others as
    in `EpisodeSampler`.

    **Raises:** `ValueError` for episodes that cannot be drawn.
    """

    def __init__(
        self,
        labels: Numbers,
        n_base: int,
        n_way: int,
        n_shot: int,
        n_query: int,
        base_way: int,
        base_query: int,
        *,
        labeled: Numbers | None = None,
        episodes: int = 1000,
        episodes_per_batch: int = 1,
        seed: int = 0,
        epoch: int = 0,
        too_small: TooSmall = "error",
    ):
        given = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "base_way": base_way, "base_query": base_query}
        self._shape = tuple(integer(name, value, at_least=1) for name, value in given.items())
        self.n_base = integer("n_base", n_base, at_least=1)
        self.episodes_per_batch = integer("episodes_per_batch", episodes_per_batch, at_least=1)
        epoch = integer("epoch", epoch)
        labels = integers("labels", labels, at_least=0)
        mask = np.ones(len(labels), bool) if labeled is None else booleans("labeled", labeled, len(labels))
        items = np.flatnonzero(mask)
        base = items[labels[items] < self.n_base]
        new = items[labels[items] >= self.n_base]
        settings = {"episodes": episodes, "seed": seed, "epoch": epoch, "too_small": too_small}
        of_new, of_base = _shapes(*self._shape, only_base=len(new) == 0)
        if len(new):
            self._new = _Drawn(new, EpisodeSampler(labels[new], **of_new, **settings))
            # A stream of its own: from the same one, new and base classes would be drawn at the same places.
            settings["epoch"] = epoch + 2**32
            try:
                self._base = _Drawn(base, EpisodeSampler(labels[base], **of_base, **settings))
            except ValueError as error:
                raise ValueError(f"base classes (n_way is base_way, n_query is base_query): {error}") from None
        else:
            self._new = _Drawn(base, EpisodeSampler(labels[base], **of_base, **settings))
            self._base = None
        self.episodes, self.seed = self._new.sampler.episodes, self._new.sampler.seed

    def __repr__(self) -> str:
        n_way, n_shot, n_query, base_way, base_query = self._shape
        return (
            f"IncrementalEpisodes({n_way}-way {n_shot}-shot {n_query}-query, {base_way} of {self.n_base} base classes with "
            f"{base_query} queries each, {self.episodes} episodes, seed {self.seed})"
        )

    def __getitem__(self, index: int | slice) -> EpisodeIndices:
        """Episode `index` (with `E = 1`), or a slice of episodes."""
        n_way, n_shot, n_query, base_way, base_query = self._shape
        new = self._new[index]
        own = new.query.reshape(len(new), new.n_way, -1)
        if self._base is None:
            base, base_ids = own[:, n_way:], new.class_ids[:, n_way:]
        else:
            drawn = self._base[index]
            base, base_ids = drawn.query.reshape(len(drawn), base_way, -1), drawn.class_ids
        own_y = np.broadcast_to(np.arange(n_way)[:, None], (len(new), n_way, n_query))
        base_y = np.broadcast_to(n_way + base_ids[..., None], (len(new), base_way, base_query))
        parts = [own[:, :n_way, :n_query], base[..., :base_query]], [own_y, base_y]
        query, query_y = (np.concatenate([part.reshape(len(new), -1) for part in both], axis=1) for both in parts)
        return dataclasses.replace(
            new,
            support=new.support[:, : n_way * n_shot],
            support_y=new.support_y[:, : n_way * n_shot],
            query=query,
            query_y=query_y,
            class_ids=new.class_ids[:, :n_way],
            n_base=self.n_base,
        )

    def batch(self, number: int) -> EpisodeIndices:
        """The episodes of batch `number`."""
        batches = -(-self.episodes // self.episodes_per_batch)
        start = integer("batch", number, at_least=0, below=batches) * self.episodes_per_batch
        return self[start : min(start + self.episodes_per_batch, self.episodes)]


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Episodes of some items of a data set, in the numbers of the whole."""

    items: np.ndarray
    sampler: EpisodeSampler

    def __getitem__(self, index: int | slice) -> EpisodeIndices:
        drawn = self.sampler[index]
        return dataclasses.replace(drawn, support=self.items[drawn.support], query=self.items[drawn.query])
