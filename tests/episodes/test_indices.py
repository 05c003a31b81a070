import dataclasses

import numpy as np

from episodic import EpisodeIndices, EpisodeSampler
from episodic.episodes.incremental import IncrementalEpisodes

LABELS = np.repeat(np.arange(10), 12)


def drawn(**settings) -> EpisodeIndices:
    return EpisodeSampler(LABELS, 3, 2, 2, 1, 1, **settings)[0:6]


def same(one: EpisodeIndices, other: EpisodeIndices) -> bool:
    fields = [field.name for field in dataclasses.fields(one)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


def test_rows_and_their_concatenation():
    indices = drawn()
    assert len(indices) == 6
    assert indices.n_way == 3
    assert len(indices[2:4]) == 2
    assert same(EpisodeIndices.concatenate([indices[0:2], indices[2:6]]), indices)
    assert same(indices[np.array([4, 1])][0:1], indices[4:5])
    base = dataclasses.replace(indices, n_base=7)
    assert EpisodeIndices.concatenate([base[0:2], base[2:3]]).n_base == 7


def test_flat_is_episode_by_episode():
    indices = drawn()
    rows = indices.flat().reshape(6, -1)
    assert np.array_equal(rows[:, :6], indices.support)
    assert np.array_equal(rows[:, 6:12], indices.query)
    assert np.array_equal(rows[:, 12:], indices.unlabeled)


def test_the_hash_is_of_every_array():
    indices = drawn()
    assert indices.hash() == drawn().hash()
    assert len(indices.hash()) == 12
    hashes = {indices.hash()}
    for field in dataclasses.fields(indices)[:-1]:
        changed = getattr(indices, field.name).copy()
        changed[-1, -1] += 1
        hashes.add(dataclasses.replace(indices, **{field.name: changed}).hash())
    assert len(hashes) == 8


def test_answers_are_classes_of_the_episode_then_base_classes():
    indices = IncrementalEpisodes(LABELS, 4, 3, 1, 2, 2, 2)[0:5]
    assert np.array_equal(indices.answer_class_ids[:, :3], indices.class_ids)
    assert np.array_equal(indices.answer_class_ids[:, 3:], np.tile(np.arange(4), (5, 1)))
    assert np.array_equal(np.take_along_axis(indices.answer_class_ids, indices.query_y, axis=1), LABELS[indices.query])


def test_says_its_shape():
    assert repr(drawn()) == "EpisodeIndices(6 x 3-way 2-shot, 6 queries, 4 unlabeled)"
    assert repr(drawn()[0:1]) == "EpisodeIndices(3-way 2-shot, 6 queries, 4 unlabeled)"
    incremental = IncrementalEpisodes(LABELS, 4, 3, 1, 2, 2, 2)[0]
    assert repr(incremental) == "EpisodeIndices(3-way 1-shot, 10 queries, 4 base classes)"
