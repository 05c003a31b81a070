"""The sources of episodes: a sampler, or a list that was read from a file. A hash names the episodes of a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from episodic.episodes.arguments import refuse
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import BLOCK, EpisodeSampler


class EpisodeList:
    """A fixed list of episodes. Its slices are `EpisodeIndices`, as the slices of an `EpisodeSampler` are.

    A slice must hold episodes of one shape.

    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> sampler = EpisodeSampler(labels=[0, 0, 0, 1, 1, 1], n_way=2, n_shot=1, n_query=2, episodes=10)
    >>> episodes = EpisodeList([sampler[i] for i in range(10)])
    >>> episodes, episodes[3:5]
    (EpisodeList(10 episodes), EpisodeIndices(2 x 2-way 1-shot, 4 queries))
    >>> episodes_hash(episodes) == episodes_hash(sampler)
    True
    """

    def __init__(self, indices: list[EpisodeIndices]):
        if not isinstance(indices, list) or not indices or not all(isinstance(i, EpisodeIndices) for i in indices):
            refuse("episodes", "a list of EpisodeIndices, at least one", indices)
        self.episodes = len(indices)
        self._indices = indices

    def __repr__(self) -> str:
        return f"EpisodeList({self.episodes:,} episodes)"

    def __getitem__(self, rows: slice) -> EpisodeIndices:
        return EpisodeIndices.concatenate(self._indices[rows])


Episodes = EpisodeSampler | IncrementalEpisodes | EpisodeList


def in_chunks(episodes: Episodes, size: int) -> Iterator[EpisodeIndices]:
    """All episodes in order, at most `size` at a time. Each chunk has one shape, because `size` is a power of two up to 256.

    >>> sampler = EpisodeSampler(labels=[0, 0, 1, 1], n_way=2, n_shot=1, n_query=1, episodes=10)
    >>> [len(chunk) for chunk in in_chunks(sampler, 4)]
    [4, 4, 2]
    """
    for start in range(0, episodes.episodes, size):
        yield episodes[start : min(start + size, episodes.episodes)]


def episodes_hash(episodes: Episodes) -> str:
    """Twelve hexadecimal digits that name a list of episodes. They are equal exactly for equal lists.

    >>> episodes_hash(EpisodeSampler(labels=[0, 0, 1, 1], n_way=2, n_shot=1, n_query=1, episodes=10))
    '9f1d4fd0f985'
    """
    state = hashlib.sha256()
    for chunk in in_chunks(episodes, BLOCK):
        state.update(chunk.hash().encode())
    return state.hexdigest()[:12]
