import numpy as np
import pytest

from episodic import EpisodeSampler
from episodic.episodes.source import EpisodeList, episodes_hash, in_chunks

LABELS = np.repeat(np.arange(8), 20)


def sampler_of(episodes=300, seed=5):
    return EpisodeSampler(LABELS, 3, 2, 2, 1, 1, episodes=episodes, seed=seed)


def test_a_list_gives_back_what_was_written_down():
    sampler = sampler_of(episodes=20)
    episodes = EpisodeList([sampler[i] for i in range(20)])
    assert episodes.episodes == 20
    assert episodes[4:9].hash() == sampler[4:9].hash()
    assert repr(episodes) == "EpisodeList(20 episodes)"
    with pytest.raises(ValueError, match="episodes must be a list of EpisodeIndices, at least one, got \\[\\]"):
        EpisodeList([])


@pytest.mark.parametrize("size", [1, 64, 256])
def test_chunks_are_all_episodes_in_order(size):
    sampler = sampler_of()
    chunks = list(in_chunks(sampler, size))
    assert max(map(len, chunks)) == size
    assert sum(map(len, chunks)) == 300
    assert np.array_equal(np.concatenate([chunk.query for chunk in chunks]), sampler[0:300].query)


def test_the_hash_names_the_list():
    sampler, longer, other = sampler_of(), sampler_of(episodes=301), sampler_of(seed=6)
    assert len({episodes_hash(s) for s in (sampler, longer, other)}) == 3
    assert episodes_hash(sampler) == episodes_hash(EpisodeList([sampler[i] for i in range(300)]))
