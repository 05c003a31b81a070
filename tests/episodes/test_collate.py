import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from episodic import Episode, EpisodeCollate, EpisodeSampler
from episodic.episodes.collate import Items

LABELS = np.repeat(np.arange(10), 12)
ITEMS = [(torch.tensor([float(i)]), int(y)) for i, y in enumerate(LABELS)]


def collate(sampler, number):
    return EpisodeCollate(sampler)([ITEMS[i] for i in sampler.batch(number).flat()])


VALUES = torch.arange(len(LABELS)).float()[:, None]
WAYS_TO_HAND_OVER = {
    "items of tensors": lambda at: [(VALUES[i], int(LABELS[i])) for i in at],
    "items of arrays": lambda at: [(VALUES[i].numpy(), LABELS[i]) for i in at],
    "longer items": lambda at: tuple((VALUES[i], torch.tensor(LABELS[i]), "a name") for i in at),
    "a pair of tensors": lambda at: (VALUES[at], torch.from_numpy(LABELS[at])),
    "a pair of arrays": lambda at: (VALUES.numpy()[at], LABELS[at].astype(np.int16)),
    "Items": lambda at: Items(VALUES[at], torch.from_numpy(LABELS[at])),
}


class AtOnce(Dataset):
    """Hands over whole batches only."""

    def __init__(self, hand_over):
        self.__getitems__ = hand_over


def same(episode: Episode, indices) -> bool:
    task = episode.task
    pairs = [
        (task.support[..., 0], indices.support),
        (task.support_y, indices.support_y),
        (task.query[..., 0], indices.query),
        (episode.query_y, indices.query_y),
        (episode.class_ids, indices.class_ids),
    ]
    if task.unlabeled is not None:
        pairs += [(task.unlabeled[..., 0], indices.unlabeled), (episode.unlabeled_y, indices.unlabeled_y)]
    return all(np.array_equal(ours.numpy(), theirs) for ours, theirs in pairs) and task.n_way == indices.n_way


@pytest.mark.parametrize(
    "shape",
    [
        dict(n_way=3, n_shot=2, n_query=3),
        dict(n_way=3, n_shot=2, n_query=3, n_unlabeled=2, n_distractors=2),
        dict(n_way=3, n_shot=3, n_query=2, imbalanced=True),
        dict(n_way=(2, 5), n_shot=(1, 4), n_query=(1, 3)),
        dict(n_way=(2, 4), n_shot=(1, 3), n_query=2, n_unlabeled=(0, 3), n_distractors=(0, 3)),
        dict(n_way=(2, 4), n_shot=2, n_query=2, imbalanced=True),
    ],
)
def test_collate_recovers_what_the_sampler_drew(shape):
    sampler = EpisodeSampler(LABELS, **shape, episodes=20 * 256, episodes_per_batch=2)
    seen = set()
    for number in range(0, sampler.n_batches, 64):
        episode = collate(sampler, number)
        seen.add(tuple(episode.task.query.shape))
        assert same(episode, sampler.batch(number))
    assert len(seen) > 1 or not any(isinstance(v, tuple) for v in shape.values())


@pytest.mark.parametrize("hand_over", WAYS_TO_HAND_OVER.values(), ids=WAYS_TO_HAND_OVER)
def test_a_data_set_may_hand_over_whole_batches(hand_over):
    sampler = EpisodeSampler(LABELS, 3, 2, 3, 1, 1, episodes=7, episodes_per_batch=2)
    loader = DataLoader(AtOnce(hand_over), batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))
    for number, episode in enumerate(loader):
        assert same(episode, sampler.batch(number))
        assert episode.task.support.dtype == torch.float32
    assert number == 3


@pytest.mark.parametrize("hand_over", WAYS_TO_HAND_OVER.values(), ids=WAYS_TO_HAND_OVER)
@pytest.mark.parametrize("container", [list, tuple])
def test_two_items_are_no_pair_of_arrays(hand_over, container):
    sampler = EpisodeSampler(LABELS, 1, 1, 1, episodes=3)
    for number in range(3):
        given = hand_over(sampler[number].flat())
        whole = isinstance(given, tuple) and not isinstance(given[0], tuple)
        assert same(EpisodeCollate(sampler)(given if whole else container(given)), sampler[number])


def test_last_batch_may_be_smaller():
    sampler = EpisodeSampler(LABELS, 3, 1, 2, episodes=5, episodes_per_batch=2)
    loader = DataLoader(ITEMS, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))
    assert [len(episode) for episode in loader] == [2, 2, 1]


def test_other_labels_than_the_samplers_are_refused():
    sampler = EpisodeSampler(LABELS, 3, 2, 2, episodes=5)
    shuffled = np.random.default_rng(0).permutation(LABELS)
    with pytest.raises(ValueError, match="give EpisodeSampler the labels"):
        EpisodeCollate(sampler)([(ITEMS[i][0], shuffled[i]) for i in sampler[0].flat()])


def test_queries_that_are_not_class_by_class_are_refused():
    sampler = EpisodeSampler(LABELS, 3, 1, 2, episodes=5)
    support, first, second, third = np.split(LABELS[sampler[0].flat()], [3, 5, 7])
    mixed = np.concatenate([support, [first[0], second[0]], [second[0], first[0]], third])
    with pytest.raises(ValueError, match="give EpisodeSampler the labels"):
        EpisodeCollate(sampler)((VALUES[: len(mixed)], mixed))


def test_two_short_episodes_are_not_read_as_a_long_one_with_unlabeled_items():
    shape = {"n_way": 2, "n_shot": (1, 2), "n_query": (1, 2), "n_unlabeled": (0, 1), "n_distractors": (0, 2)}
    for seed in range(60):
        sampler = EpisodeSampler(LABELS[:48], **shape, episodes=256, episodes_per_batch=2, seed=seed)
        for number in range(8):
            assert same(collate(sampler, number), sampler.batch(number))
