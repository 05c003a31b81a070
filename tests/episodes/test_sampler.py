import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.utils.data import DataLoader, Dataset

from episodic import EpisodeCollate, EpisodeSampler
from episodic.episodes.sampler import BLOCK, _distinct, _shares, _Uniform, items_needed

LABELS = np.repeat(np.arange(10), 8)


class Untouchable(Dataset):
    """A data set that must not be read: sampling needs labels only."""

    def __getitem__(self, index):
        raise AssertionError("the sampler touched an item")


class Items(Dataset):
    """Item i is the vector (i, i); its label comes along."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.full((2,), float(index)), int(self.labels[index])


def test_shapes_and_roles():
    sampler = EpisodeSampler(LABELS, 3, 2, 4, 1, 2, episodes=300)
    indices = sampler[0:300]
    assert indices.support.shape == (300, 6)
    assert indices.query.shape == (300, 12)
    assert indices.unlabeled.shape == (300, 5)
    for role in ("support", "query", "unlabeled"):
        items, y = getattr(indices, role), getattr(indices, f"{role}_y")
        known = y >= 0
        behind = np.take_along_axis(indices.class_ids, np.where(known, y, 0), axis=1)
        assert (LABELS[items] == behind)[known].all()
    assert (indices.unlabeled_y[:, -2:] == -1).all()
    distractors = LABELS[indices.unlabeled[:, -2:]]
    assert not (distractors[:, :, None] == indices.class_ids[:, None]).any()
    every = np.sort(np.concatenate([indices.support, indices.query, indices.unlabeled], axis=1), axis=1)
    assert (np.diff(every, axis=1) > 0).all(), "an item has two roles in an episode"


def test_episode_is_a_pure_function_of_seed_epoch_and_index():
    make = lambda **k: EpisodeSampler(LABELS, 3, 1, 4, episodes=3 * BLOCK, **k)  # noqa: E731
    sampler, order = make(seed=3), [700, 2, 511, 512, 2]
    single = {i: make(seed=3)[i].hash() for i in order}
    assert all(sampler[i].hash() == single[i] for i in order)
    assert np.array_equal(sampler[500:520].support[12:], sampler[512:520].support)
    assert make(seed=4)[2].hash() != single[2]
    assert make(seed=3, epoch=1)[2].hash() != single[2]
    assert len({make(seed=seed)[2].hash() for seed in (-1, -2, 2**63, 2**63 + 1)}) == 4
    assert len({sampler[i].hash() for i in range(600)}) == 600


@pytest.mark.parametrize(("n", "m"), [(4, 3), (5, 2), (3, 3)])
def test_distinct_draws_every_ordered_sample_equally_often(n, m):
    draws = _distinct(_Uniform(0, 0, range(100)), np.full(100 * BLOCK, n), m)
    counts = np.array([(draws == p).all(axis=1).sum() for p in itertools.permutations(range(n), m)])
    expected = len(draws) / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, len(counts) - 1)
    assert counts.sum() == len(draws)


def slow_distinct(words, n, m):
    """Floyd's algorithm and the Fisher-Yates shuffle, one integer at a time; `words [2 * m]` are 32-bit."""
    drawn = []
    for j in range(m):
        value = int(words[j]) * (n - m + j + 1) >> 32
        drawn.append(n - m + j if value in drawn else value)
    for j in range(m):
        other = j + (int(words[m + j]) * (m - j) >> 32)
        drawn[j], drawn[other] = drawn[other], drawn[j]
    return drawn


# On both sides of what 8, 16 and 32 bits hold, and few out of many as well as all.
@pytest.mark.parametrize(
    ("n", "m"), [((5, 5), 5), ((255, 256), 9), ((40, 257), 12), ((65_535, 65_536), 40), ((70_000, 9), 9)]
)
def test_distinct_is_floyd_then_fisher_yates_on_each_blocks_own_stream(n, m):
    blocks = range(3, 6)
    sizes = np.random.default_rng(0).choice(n, (len(blocks) * BLOCK, 2))
    draws = _distinct(_Uniform(1, 2, blocks), sizes, m)
    for k, block in enumerate(blocks):
        stream = np.random.Philox(key=[1, 2], counter=[0, 0, 0, block])
        words = stream.random_raw(2 * m * BLOCK).view(np.uint32).reshape(2 * m, BLOCK, 2)
        for e, w in np.ndindex(BLOCK, 2):
            row = k * BLOCK + e
            assert draws[row, w].tolist() == slow_distinct(words[:, e, w], int(sizes[row, w]), m)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(n_shot=2, n_query=3, n_unlabeled=1, n_distractors=2),
        dict(n_shot=3, n_query=1, imbalanced=True),
        dict(n_way=2, super_classes=[0, 0, 0, 1, 1, 1, 2, 2, 2, 2]),
        dict(n_query=2, n_unlabeled=4, n_distractors=1, labeled=np.tile([True] * 3 + [False] * 5, 10)),
        dict(n_way=(2, 4), n_shot=(1, 3)),
    ],
)
def test_blocks_read_in_order_are_those_read_alone(arguments):
    make = lambda: EpisodeSampler(LABELS, **{"n_way": 3, "n_query": 2, "episodes": 99 * BLOCK, **arguments})  # noqa: E731
    sampler = make()
    assert [sampler.block(b).hash() for b in range(60)] == [make().block(b).hash() for b in range(60)]
    sampler.set_epoch(1)
    other = make()
    other.set_epoch(1)
    assert sampler.block(60).hash() == other.block(60).hash() != make().block(60).hash()


def test_every_class_and_item_is_drawn_equally_often_in_every_role():
    indices = EpisodeSampler(LABELS, 3, 1, 2, 1, episodes=40 * BLOCK)[0 : 40 * BLOCK]
    for role in ("support", "query", "unlabeled"):
        counts = np.bincount(getattr(indices, role).reshape(-1), minlength=len(LABELS))
        expected = counts.sum() / len(LABELS)
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, len(LABELS) - 1)


def test_storage_order_does_not_matter():
    random = np.random.default_rng(0)
    order = random.permutation(len(LABELS))
    sampler = EpisodeSampler(LABELS[order], 3, 2, 3, episodes=BLOCK)
    indices = sampler[0:BLOCK]
    assert (LABELS[order][indices.query].reshape(-1, 3, 3) == indices.class_ids[..., None]).all()


def test_known_episode_stays_the_same():
    # Published hashes name episode lists, so the draws may not change between versions.
    assert EpisodeSampler(LABELS, 3, 1, 2, episodes=BLOCK, seed=7)[0:BLOCK].hash() == "b1de6e45908a"


def test_imbalanced_support_has_the_same_total_and_no_empty_class():
    indices = EpisodeSampler(np.repeat(np.arange(6), 20), 3, 3, 2, episodes=4 * BLOCK, imbalanced=True)[0 : 4 * BLOCK]
    shots = (indices.support_y[..., None] == np.arange(3)).sum(1)
    assert (shots.sum(1) == 9).all()
    assert (shots >= 1).all()
    assert len(np.unique(shots, axis=0)) == 28  # all compositions of 9 into 3 positive parts: C(8, 2)
    assert (_shares(_Uniform(0, 0, range(1)), BLOCK, 3, 1) == 1).all()


def test_labeled_mask_separates_the_pools():
    labeled = np.tile([True] * 3 + [False] * 5, 10)
    indices = EpisodeSampler(LABELS, 2, 1, 2, 4, 1, episodes=BLOCK, labeled=labeled)[0:BLOCK]
    assert labeled[indices.support].all()
    assert labeled[indices.query].all()
    assert not labeled[indices.unlabeled].any()


def test_super_classes_hold_an_episode_together():
    super_classes = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])  # the last is too small for three classes
    indices = EpisodeSampler(LABELS, 3, 1, 1, episodes=4 * BLOCK, super_classes=super_classes)[0 : 4 * BLOCK]
    groups = super_classes[indices.class_ids]
    assert (groups == groups[:, :1]).all()
    assert set(np.unique(groups)) == {0, 1}


def test_ranges_are_drawn_a_block():
    sampler = EpisodeSampler(LABELS, (2, 4), (1, 3), 2, (0, 2), (0, 3), episodes=40 * BLOCK)
    shapes = {sampler.block(b).query.shape[1] for b in range(40)}
    assert shapes == {4, 6, 8}
    assert {sampler.block(b).support.shape[1] // sampler.block(b).n_way for b in range(40)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_way=11), "11 classes .* the labels have 10"),
        (dict(n_way=8, n_distractors=3), r"11 classes \(n_way=8 \+ n_distractors=3\)"),
        (dict(n_shot=5, n_query=4), "takes 9 of a class .* class 0 has 8"),
        (dict(n_way=0), "n_way must be an integer >= 1"),
        (dict(n_shot=(3, 2)), "n_shot must be"),
        (dict(n_query=2, labeled=np.arange(80) < 40), "labeled"),
        (dict(n_query=2, episodes=0), "episodes must be an integer, at least 1"),
        (dict(n_query=2, rank=2, world_size=2), "rank must be"),
        (dict(n_query=2, episodes=7, world_size=2), "evenly"),
        (dict(n_query=2, n_way=(2, 3), episodes_per_batch=3), "divide 256"),
        (
            dict(n_query=2, super_classes=[0] * 4),
            r"super_classes has an entry for each of the labels 0\.\.3, but labels go from 0 to 9",
        ),
    ],
)
def test_impossible_requests_are_refused_with_the_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(LABELS, **{"n_way": 5, "n_shot": 1, "n_query": 3, **arguments})


def test_float_labels_are_refused():
    with pytest.raises(ValueError, match="integers"):
        EpisodeSampler(LABELS / 2)


def test_small_classes_can_be_dropped():
    labels = np.concatenate([LABELS, [10, 10]])
    with pytest.raises(ValueError, match="class 10 has 2"):
        EpisodeSampler(labels, 2, 1, 3)
    sampler = EpisodeSampler(labels, 2, 1, 3, too_small="drop", episodes=BLOCK)
    assert sampler.n_classes == 10
    assert sampler[0:BLOCK].class_ids.max() == 9


def test_labels_need_not_start_at_zero_nor_be_dense():
    indices = EpisodeSampler(LABELS * 100 + 7, 3, 1, 2, episodes=10)[0:10]
    assert set(np.unique(indices.class_ids)) <= {c * 100 + 7 for c in range(10)}


def test_sampling_touches_no_item():
    sampler = EpisodeSampler(LABELS, 3, 1, 2, episodes=5)
    assert len(list(sampler)) == len(sampler) == 5
    assert Untouchable  # the class exists to be passed where a data set is needed
    with pytest.raises(AssertionError, match="touched"):
        next(iter(DataLoader(Untouchable(), batch_sampler=sampler)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_same_episodes_for_any_number_of_workers(workers):
    sampler = EpisodeSampler(LABELS, 3, 2, 2, 1, 1, episodes=6, seed=1, episodes_per_batch=2)
    loader = DataLoader(Items(LABELS), batch_sampler=sampler, collate_fn=EpisodeCollate(sampler), num_workers=workers)
    expected = [sampler.batch(b) for b in range(3)]
    for episode, indices in zip(loader, expected, strict=True):
        assert np.array_equal(episode.task.support[..., 0].numpy(), indices.support)
        assert np.array_equal(episode.task.support_y, indices.support_y)
        assert np.array_equal(episode.task.query[..., 1].numpy(), indices.query)
        assert np.array_equal(episode.query_y, indices.query_y)
        assert np.array_equal(episode.task.unlabeled[..., 0].numpy(), indices.unlabeled)
        assert np.array_equal(episode.unlabeled_y, indices.unlabeled_y)
        assert np.array_equal(episode.class_ids, indices.class_ids)


def test_ranks_share_the_batches():
    whole = list(EpisodeSampler(LABELS, 3, 1, 2, episodes=8, episodes_per_batch=2))
    ranks = [
        list(EpisodeSampler(LABELS, 3, 1, 2, episodes=8, episodes_per_batch=2, rank=r, world_size=2)) for r in (0, 1)
    ]
    assert [b for pair in zip(*ranks, strict=True) for b in pair] == whole


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    ("episodes_per_batch", "arguments"),
    [
        *((size, dict()) for size in (1, 64, 100, 256, 300)),
        *((size, dict(n_way=(2, 4))) for size in (1, 64, 256)),
        (100, dict(n_shot=2, imbalanced=True)),
    ],
)
def test_lists_are_the_batches(episodes_per_batch, arguments, world_size):
    episodes = 1000 if world_size == 1 else 4 * episodes_per_batch * world_size
    settings = {"n_way": 3, "n_query": 2, "episodes_per_batch": episodes_per_batch, "episodes": episodes, **arguments}
    whole, lists = EpisodeSampler(LABELS, **settings), []
    for rank in range(world_size):
        lists.append(list(EpisodeSampler(LABELS, **settings, rank=rank, world_size=world_size)))
    for number in range(whole.n_batches):
        indices = whole.batch(number)
        roles = zip(indices.support, indices.query, strict=True)
        expected = [int(i) for support, query in roles for i in (*support, *query)]
        assert lists[number % world_size][number // world_size] == expected


def test_an_epoch_set_in_the_middle_of_iteration_takes_effect_at_once():
    sampler, other = (EpisodeSampler(LABELS, 3, 1, 2, episodes=6, epoch=epoch) for epoch in (0, 1))
    iterator = iter(sampler)
    next(iterator)
    sampler.set_epoch(1)
    assert next(iterator) == other.batch(1).flat().tolist()


def test_resume_in_the_middle_of_an_epoch():
    sampler = EpisodeSampler(LABELS, 3, 1, 2, episodes=6)
    whole, iterator = list(sampler), iter(sampler)
    first = [next(iterator) for _ in range(2)]
    state = sampler.state_dict()
    fresh = EpisodeSampler(LABELS, 3, 1, 2, episodes=6, seed=9)
    fresh.load_state_dict(state)
    assert first + list(fresh) == whole
    assert list(fresh) == whole, "the epoch after a resumed one starts at the beginning"


def test_index_errors():
    sampler = EpisodeSampler(LABELS, 3, 1, 2, episodes=6)
    assert sampler[-1].hash() == sampler[5].hash()
    for wrong in (6, -7, slice(3, 3), slice(0, 6, 2)):
        with pytest.raises(IndexError):
            sampler[wrong]


def test_sampler_survives_pickling():
    sampler = EpisodeSampler(LABELS, 3, 1, 2, episodes=6, seed=5)
    assert pickle.loads(pickle.dumps(sampler))[3].hash() == sampler[3].hash()


def test_module_can_be_used_alone():
    import ast
    from pathlib import Path

    import episodic.episodes.arguments
    import episodic.episodes.indices
    import episodic.episodes.sampler

    imported = set()
    for module in (episodic.episodes.arguments, episodic.episodes.indices, episodic.episodes.sampler):
        tree = ast.parse(Path(module.__file__).read_text())
        imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    ours = {name for name in imported if name.startswith("episodic")}
    assert ours == {"episodic.episodes.arguments", "episodic.episodes.indices"}, imported


@pytest.mark.parametrize("split_pools", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        dict(n_way=3, n_shot=2, n_query=3, n_unlabeled=4),
        dict(n_way=3, n_shot=3, n_query=2, n_unlabeled=1, imbalanced=True),
        dict(n_way=(2, 3), n_shot=(1, 4), n_query=(1, 3), n_unlabeled=(0, 2)),
        dict(n_way=3, n_shot=2, n_query=3, n_unlabeled=2, n_distractors=1),
    ],
)
def test_a_class_needs_what_is_said_and_not_one_less(shape, split_pools):
    numbers = {name: value for name, value in shape.items() if name != "imbalanced"}
    need = items_needed(numbers, imbalanced=shape.get("imbalanced", False), split_pools=split_pools)
    assert len(need) == 1 + split_pools
    for short in range(-1, len(need)):
        has = [n - (pool == short) for pool, n in enumerate(need)]
        labels = np.repeat(np.arange(4), sum(has))
        labeled = np.tile(np.repeat([True, False], [has[0], sum(has) - has[0]]), 4) if split_pools else None
        if short < 0:
            EpisodeSampler(labels, **shape, labeled=labeled)[0]
        else:
            with pytest.raises(ValueError, match="4 of 4 classes have too few items"):
                EpisodeSampler(labels, **shape, labeled=labeled)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(n_way=5), "5-way 1-shot 15-query, 1000 episodes, seed 0"),
        (dict(n_way=(2, 5), n_shot=2, seed=3, epoch=1), "2..5-way 2-shot 15-query, 1000 episodes, seed 3, epoch 1"),
        (
            dict(n_way=2, n_shot=2, n_query=2, n_unlabeled=3, n_distractors=1, imbalanced=True, episodes=6),
            "2-way 2-shot 2-query, 3 unlabeled a class, 1 distractors, unequal shots, 6 episodes, seed 0",
        ),
    ],
)
def test_says_what_it_draws(settings, words):
    assert repr(EpisodeSampler(np.repeat(np.arange(10), 20), **settings)) == f"EpisodeSampler({words})"
