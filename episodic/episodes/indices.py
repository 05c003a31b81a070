"""Which items of a data set an episode is made of, as plain indices."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class EpisodeIndices:
    """Which items of a data set make up `E` episodes of one shape. The items themselves are not here, so it costs little.

    All arrays are int64.

    - `support [E, S]`, `query [E, Q]`, `unlabeled [E, U]`: indices into the data set, class by class.
    - `support_y [E, S]`, `query_y [E, Q]`: labels in `0..n_way-1`; `unlabeled_y [E, U]`: the same, −1 for a distractor.
    - `class_ids [E, n_way]`: the data set's label behind each local label.
    - `n_base`: in incremental episodes, the number of base classes; a query of base class c has the label `n_way + c`.

    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> indices = EpisodeSampler(labels=[0, 0, 0, 1, 1, 1, 2, 2, 2], n_way=2, n_shot=1, n_query=2)[0]
    >>> indices
    EpisodeIndices(2-way 1-shot, 4 queries)
    >>> indices.support, indices.support_y, indices.class_ids
    (array([[0, 6]]), array([[0, 1]]), array([[0, 2]]))
    """

    support: np.ndarray
    support_y: np.ndarray
    query: np.ndarray
    query_y: np.ndarray
    unlabeled: np.ndarray
    unlabeled_y: np.ndarray
    class_ids: np.ndarray
    n_base: int = 0

    def __len__(self) -> int:
        return len(self.support)

    def __repr__(self) -> str:
        sizes = (self.support.shape[1], self.query.shape[1], self.unlabeled.shape[1])
        return f"EpisodeIndices({shape_in_words(len(self), self.n_way, *sizes, self.n_base)})"

    @property
    def n_way(self) -> int:
        return self.class_ids.shape[1]

    @property
    def answer_class_ids(self) -> np.ndarray:
        """`[E, n_way + n_base]`: the data set's label behind each possible answer; in incremental episodes base classes follow."""
        base = np.broadcast_to(np.arange(self.n_base), (len(self), self.n_base))
        return np.concatenate([self.class_ids, base], axis=1)

    def flat(self) -> np.ndarray:
        """All indices in one row `[E * (S + Q + U)]`: episode by episode, support then query then unlabeled."""
        return np.concatenate([self.support, self.query, self.unlabeled], axis=1).reshape(-1)

    def hash(self) -> str:
        """Twelve hexadecimal digits that are equal exactly for equal episodes."""
        state = hashlib.sha256()
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name), dtype="<i8")
            state.update(repr(array.shape).encode() + array.tobytes())
        return state.hexdigest()[:12]

    def __getitem__(self, rows: slice | np.ndarray) -> EpisodeIndices:
        return EpisodeIndices(*(getattr(self, name)[rows] for name in ARRAYS), self.n_base)

    @staticmethod
    def concatenate(parts: Sequence[EpisodeIndices]) -> EpisodeIndices:
        """Episodes of equal shape, one after the other."""
        if len(parts) == 1:
            return parts[0]
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ARRAYS}
        return dataclasses.replace(parts[0], **joined)


ARRAYS = tuple(f.name for f in dataclasses.fields(EpisodeIndices) if f.name != "n_base")


def shape_in_words(episodes: int, n_way: int, support: int, query: int, unlabeled: int = 0, n_base: int = 0) -> str:
    """A batch of episodes in one line, from its numbers of items.

    >>> shape_in_words(4, n_way=5, support=5, query=75)
    '4 x 5-way 1-shot, 75 queries'
    """
    shots = f" {support // n_way}-shot" if n_way and support % n_way == 0 else f", {_counted(support, 'support item')}"
    parts = [f"{episodes} x " * (episodes != 1) + f"{n_way}-way{shots}", _counted(query, "query", "queries")]
    parts += [f"{unlabeled} unlabeled"] * (unlabeled > 0)
    parts += [_counted(n_base, "base class", "base classes")] * (n_base > 0)
    return ", ".join(parts)


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
