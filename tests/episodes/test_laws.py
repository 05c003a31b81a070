"""The laws of samplers, over random data sets and shapes: what an episode holds, and that it depends on its number alone."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from episodic import EpisodeCollate, EpisodeSampler, IncrementalEpisodes
from episodic.episodes.collate import Items
from episodic.episodes.sampler import BLOCK, items_needed

SMALL = settings(max_examples=100)
LARGE = settings(max_examples=1000)


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set's labels, and the arguments of a sampler that can draw from them."""

    labels: np.ndarray
    arguments: dict
    few: set[int]  # classes with too few items

    def sampler(self, **changes) -> EpisodeSampler:
        return EpisodeSampler(self.labels, **self.arguments | changes)


def counts(low: int, high: int):
    """A number, or a range of numbers."""
    number = st.integers(low, high)
    return number | st.tuples(number, number).map(lambda pair: tuple(sorted(pair)))


def highest(value) -> int:
    return value if isinstance(value, int) else value[1]


SHAPES = st.fixed_dictionaries(
    {
        "n_way": counts(1, 4),
        "n_shot": counts(1, 4),
        "n_query": counts(1, 4),
        "n_unlabeled": counts(0, 3),
        "n_distractors": counts(0, 3),
    }
)
CASES = st.fixed_dictionaries(
    {
        "shape": SHAPES,
        "imbalanced": st.booleans(),
        "split_pools": st.booleans(),
        "groups": st.none() | st.integers(1, 3),
        "larger": st.lists(st.integers(0, 3), max_size=3),  # further classes, of so many items more than needed
        "few": st.integers(0, 2),  # classes of an item less
        "numbers": st.permutations(range(40)),  # the labels
        "shift": st.sampled_from([0, -30, 2**40]),
        "order": st.integers(0, 2**32),
        "world_size": st.integers(1, 3),
        "episodes_per_batch": st.sampled_from([1, 2, 4, 8]),
        "batches": st.integers(1, 90),  # of each rank
        "seed": st.integers(-(2**70), 2**70),
        "epoch": st.integers(0, 2**40),
        "start": st.integers(0, 999),
    }
)


def case_of(given: dict) -> Case:
    shape, pools = given["shape"], {name: given[name] for name in ("imbalanced", "split_pools")}
    need = items_needed(shape, **pools)
    classes = (given["groups"] or 1) * (highest(shape["n_way"]) + highest(shape["n_distractors"]))
    sizes = [need] * classes + [tuple(n + more for n in need) for more in given["larger"]]
    few = [(need[0] - 1, *need[1:])] * given["few"]
    shift = 0 if given["groups"] else given["shift"]
    names = np.array(given["numbers"][: len(sizes) + len(few)]) + shift
    order = np.random.default_rng(given["order"]).permutation(sum(map(sum, sizes + few)))
    labels = np.repeat(names, [sum(size) for size in sizes + few])[order]
    labeled = np.concatenate([np.arange(sum(size)) < size[0] for size in sizes + few])[order]
    super_classes = np.zeros(40, dtype=int)
    super_classes[names - shift] = np.arange(len(names)) % (given["groups"] or 1)
    arguments = shape | {
        "imbalanced": given["imbalanced"],
        "labeled": labeled if given["split_pools"] else None,
        "super_classes": super_classes if given["groups"] else None,
        "too_small": "drop" if few else "error",
        "episodes": given["world_size"] * given["episodes_per_batch"] * given["batches"],
        "episodes_per_batch": given["episodes_per_batch"],
        "seed": given["seed"],
        "epoch": given["epoch"],
    }
    return Case(labels, arguments, set(names[len(sizes) :].tolist()))


def check_episodes(case: Case, sampler: EpisodeSampler, start: int) -> None:
    """What some episodes of one block hold."""
    episodes = sampler[start : min(start + 4, sampler.episodes, (start // BLOCK + 1) * BLOCK)]
    labels, given = case.labels, case.arguments
    way = episodes.n_way
    low, high = ({name: pick(sampler.shape[name]) for name in sampler.shape} for pick in (min, max))
    shot, query = episodes.support.shape[1] / way, episodes.query.shape[1] / way
    assert low["n_way"] <= way <= high["n_way"]
    assert low["n_shot"] <= shot <= high["n_shot"]
    assert low["n_query"] <= query <= high["n_query"]
    for row in range(len(episodes)):
        support, asked, rest, ids = (
            part[row] for part in (episodes.support, episodes.query, episodes.unlabeled, episodes.class_ids)
        )
        everything = np.concatenate([support, asked, rest])
        assert len(np.unique(everything)) == len(everything), "an item comes twice"
        assert len(np.unique(ids)) == way, "a class comes twice"
        assert not case.few & set(labels[everything]), "a class that is too small"
        assert (labels[support] == ids[episodes.support_y[row]]).all()
        assert (labels[asked] == ids[episodes.query_y[row]]).all()
        assert (np.bincount(episodes.query_y[row], minlength=way) == query).all()
        shots = np.bincount(episodes.support_y[row], minlength=way)
        assert (shots >= 1).all() if given["imbalanced"] else (shots == shot).all()
        y = episodes.unlabeled_y[row]
        assert (labels[rest][y >= 0] == ids[y[y >= 0]]).all()
        own, others = np.bincount(y[y >= 0], minlength=way), labels[rest[y < 0]]
        assert low["n_unlabeled"] <= own[0] <= high["n_unlabeled"]
        assert (own == own[0]).all()
        assert not set(others) & set(ids)
        if own[0]:
            distractors, each = np.unique(others, return_counts=True)
            assert (each == own[0]).all()
            assert low["n_distractors"] <= len(distractors) <= high["n_distractors"]
        if given["labeled"] is not None:
            assert given["labeled"][np.concatenate([support, asked])].all()
            assert not given["labeled"][rest].any()
        if given["super_classes"] is not None:
            assert len(set(given["super_classes"][labels[everything]])) == 1


def check_order(case: Case, sampler: EpisodeSampler, world_size: int, start: int) -> None:
    """Access by number, iteration, ranks and resuming give the same episodes."""
    batches = list(sampler)
    assert len(batches) == len(sampler) == sampler.n_batches
    at = start % len(batches)
    assert batches[at] == case.sampler().batch(at).flat().tolist()
    assert case.sampler()[start].hash() == sampler[start].hash()
    ranks = [list(case.sampler(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == batches
    stopped, resumed = iter(sampler), case.sampler(seed=0, epoch=0)
    for _ in range(at):
        next(stopped)
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed) == batches[at:] if at else list(resumed) == batches


def check_collate(case: Case, sampler: EpisodeSampler, start: int) -> None:
    """Items come back as the episodes that were drawn, where the labels can tell them."""
    if sampler.shape["n_way"][0] == 1 and any(low != high for low, high in sampler.shape.values()):
        with pytest.raises(ValueError, match="n_way must be at least 2"):
            EpisodeCollate(sampler)
        return
    indices = sampler.batch(start % sampler.n_batches)
    flat = indices.flat()
    episode = EpisodeCollate(sampler)(Items(torch.from_numpy(flat)[:, None], case.labels[flat]))
    task, distractors = episode.task, indices.unlabeled_y[0].tolist().count(-1)
    assert (task.n_way, len(task.support)) == (indices.n_way, len(indices)), distractors
    for ours, drawn in ((task.support, "support"), (task.query, "query"), (task.unlabeled, "unlabeled")):
        wanted = getattr(indices, drawn)
        assert (ours is None and wanted.size == 0) or np.array_equal(ours[..., 0].numpy(), wanted)
    assert np.array_equal(task.support_y.numpy(), indices.support_y)
    assert np.array_equal(episode.query_y.numpy(), indices.query_y)
    assert np.array_equal(episode.class_ids.numpy(), indices.class_ids)
    if task.unlabeled is not None:
        assert np.array_equal(episode.unlabeled_y.numpy(), indices.unlabeled_y)


def check_laws(drawn: dict) -> None:
    case = case_of(drawn)
    sampler = case.sampler()
    start = drawn["start"] % sampler.episodes
    check_episodes(case, sampler, start)
    check_order(case, sampler, drawn["world_size"], start)
    check_collate(case, sampler, start)


@SMALL
@given(CASES)
def test_laws_of_the_sampler(drawn):
    check_laws(drawn)


@pytest.mark.slow
@LARGE
@given(CASES)
def test_laws_of_the_sampler_at_length(drawn):
    check_laws(drawn)


@st.composite
def incremental_cases(draw):
    n_way, n_shot, n_query, base_way, base_query = (draw(st.integers(1, 4)) for _ in range(5))
    n_base = draw(st.integers(base_way, 6))
    new = draw(st.sampled_from([0, n_way, n_way + 2]))
    n_base += 0 if new else n_way  # base classes play the part of new ones
    size = n_shot + max(n_query, base_query) + 1 + draw(st.integers(0, 2))
    labels = np.repeat(np.arange(n_base + new), size)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.ones(len(labels), bool)
    if draw(st.booleans()):
        labels, mask = np.concatenate([labels, labels]), np.concatenate([mask, ~mask])
    order = random.permutation(len(labels))
    numbers = {"n_base": n_base, "n_way": n_way, "n_shot": n_shot, "n_query": n_query}
    settings = {
        "base_way": base_way,
        "base_query": base_query,
        "episodes": draw(st.integers(1, 300)),
        "seed": draw(st.integers()),
    }
    return labels[order], mask[order], numbers | settings, new == 0, draw(st.integers(0, 299))


@SMALL
@given(incremental_cases())
def test_laws_of_incremental_episodes(drawn):
    labels, mask, given, only_base, start = drawn
    make = lambda: IncrementalEpisodes(labels, **given, labeled=None if mask.all() else mask)  # noqa: E731
    start %= given["episodes"]
    episodes = make()
    found = episodes[start : start + 3]
    assert found.hash() == make()[start : start + 3].hash()
    assert found[0:1].hash() == make()[start].hash() == make().batch(start).hash()
    n_way, n_base = given["n_way"], given["n_base"]
    for row in range(len(found)):
        items = np.concatenate([found.support[row], found.query[row]])
        assert len(np.unique(items)) == len(items)
        assert mask[items].all()
        answers = found.answer_class_ids[row]
        assert (labels[found.support[row]] == found.class_ids[row][found.support_y[row]]).all()
        assert (labels[found.query[row]] == answers[found.query_y[row]]).all()
        assert len(np.unique(found.class_ids[row])) == n_way
        assert (found.class_ids[row] < n_base).all() if only_base else (found.class_ids[row] >= n_base).all()
        asked = found.query_y[row]
        assert (np.bincount(asked[asked < n_way], minlength=n_way) == given["n_query"]).all()
        base, each = np.unique(asked[asked >= n_way] - n_way, return_counts=True)
        assert len(base) == given["base_way"]
        assert (each == given["base_query"]).all()
        assert not set(base) & set(found.class_ids[row])
