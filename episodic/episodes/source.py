"""What episodes are read from: a sampler, or a list that was written down; named by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from episodic.episodes.incremental import IncrementalEpisodes
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import BLOCK, EpisodeSampler


class EpisodeList:
    """Episodes that were written down: `[i]` and contiguous slices, as an `EpisodeSampler` has them."""

    def __init__(self, indices: list[EpisodeIndices]):
        if not indices:
            raise ValueError("a list of episodes must not be empty")
        self.episodes = len(indices)
        self._indices = indices

    def __getitem__(self, rows: slice) -> EpisodeIndices:
        return EpisodeIndices.concatenate(self._indices[rows])


Episodes = EpisodeSampler | IncrementalEpisodes | EpisodeList


def in_chunks(episodes: Episodes, size: int) -> Iterator[EpisodeIndices]:
    """All episodes, at most `size` at a time (a power of two up to 256), each chunk of one shape."""
    for start in range(0, episodes.episodes, size):
        yield episodes[start : min(start + size, episodes.episodes)]


def episodes_hash(episodes: Episodes) -> str:
    """Twelve hexadecimal digits that are equal exactly for equal lists of episodes."""
    state = hashlib.sha256()
    for chunk in in_chunks(episodes, BLOCK):
        state.update(chunk.hash().encode())
    return state.hexdigest()[:12]
