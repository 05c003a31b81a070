"""Samplers, the collate, tasks and the other libraries' interfaces, given labels, masks, shapes and items that cannot be."""

import functools
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from episodic import Episode, EpisodeCollate, EpisodeSampler, IncrementalEpisodes, Prediction, Task
from episodic.episodes.collate import Items
from episodic.episodes.sampler import items_needed
from episodic.episodes.source import EpisodeList
from episodic.interop import BatchMetaDataLoader, Tasks, TaskSampler, labels_of
from tests.bad_input import HUGE, NAN, Call, complaint

LABELS = [c for c in range(6) for _ in range(12)]
N = len(LABELS)
ITEMS = [(torch.tensor([float(i)]), y) for i, y in enumerate(LABELS)]
NEW_AND_BASE = {"n_base": 3, "n_way": 2, "n_shot": 1, "n_query": 2, "base_way": 2, "base_query": 2}


class Column:
    """Labels as a data frame gives them: no list, but it can be read as an array."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype=dtype)


class Lists(list):
    """A data set with easyfsl's method."""

    def __init__(self, items, labels):
        super().__init__(items)
        self.labels = labels

    def get_labels(self):
        return self.labels


def sampler(labels=LABELS, **settings):
    return EpisodeSampler(labels, **{"n_way": 3, "n_shot": 1, "n_query": 2} | settings)


def incremental(labels=LABELS, **settings):
    return IncrementalEpisodes(labels, **NEW_AND_BASE | settings)


BAD_LABELS = {
    "floats": np.array(LABELS, dtype=float),
    "a list of floats": [float(y) for y in LABELS],
    "halves": np.array(LABELS) + 0.5,
    "NaN": np.where(np.arange(N) == 3, NAN, LABELS),
    "a tensor of floats": torch.tensor(LABELS).float(),
    "booleans": np.array(LABELS) > 2,
    "complex": np.array(LABELS) + 0j,
    "names": [f"class {y}" for y in LABELS],
    "digits in strings": [str(y) for y in LABELS],
    "one string": "abcabcabc",
    "bytes": b"aaabbbccc",
    "two axes": np.array(LABELS).reshape(2, -1),
    "one-hot": np.eye(6, dtype=int)[LABELS],
    "a column": torch.tensor(LABELS)[:, None],
    "no axis": np.array(3),
    "a number": 3,
    "None": None,
    "a None among them": [*LABELS[:-1], None],
    "ragged": [[0, 1], [2]],
    "an empty list": [],
    "an empty array": np.array([], dtype=np.int64),
    "a set": set(LABELS),
    "a dict": dict(enumerate(LABELS)),
    "items": ITEMS,
    "beyond int64": [2**70, *LABELS],
    "beyond int64 unsigned": np.array([2**63 + 5, *LABELS], dtype=np.uint64),
    "dates": np.array(LABELS, dtype="datetime64[D]"),
}
BAD_MASKS = {
    "strings": ["False"] * 40 + ["True"] * (N - 40),
    "0 and 1": [1] * 60 + [0] * (N - 60),
    "an array of 0 and 1": (np.arange(N) < 60).astype(int),
    "floats": np.full(N, 0.5),
    "NaN": np.full(N, NAN),
    "indices": list(range(60)),
    "bytes of 0 and 1": torch.ones(N, dtype=torch.uint8),
    "one too few": [True] * (N - 1),
    "one too many": [True] * (N + 1),
    "nothing": [],
    "two axes": np.ones((N, 1), dtype=bool),
    "one boolean": True,
    "a None among them": [True] * (N - 1) + [None],
    "a string": "yes",
}
BAD_RANGES = [
    (5, 3),
    (1, 2, 3),
    (),
    (2,),
    ("1", "2"),
    (1.0, 2.0),
    (NAN, 3),
    "35",
    "3",
    (True, 3),
    (None, 3),
    {1: 2},
    {3},
    [[2, 3]],
]
SHAPE = ("n_way", "n_shot", "n_query", "n_unlabeled", "n_distractors")


def sampler_calls() -> Iterator[Call]:
    for name, labels in BAD_LABELS.items():
        yield f"sampler, labels: {name}", "labels", functools.partial(sampler, labels)
        yield f"incremental, labels: {name}", "labels", functools.partial(incremental, labels)
        if name not in ("None", "booleans"):
            yield f"super_classes: {name}", "super_classes", functools.partial(sampler, super_classes=labels)
    yield "labels from a generator", "labels", lambda: sampler(y for y in LABELS)
    yield "incremental, labels from a generator", "labels", lambda: incremental(y for y in LABELS)
    yield "mask from a generator", "labeled", lambda: sampler(labeled=(True for _ in LABELS))
    for name, mask in BAD_MASKS.items():
        yield f"sampler, labeled: {name}", "labeled", functools.partial(sampler, labeled=mask)
        yield f"incremental, labeled: {name}", "labeled", functools.partial(incremental, labeled=mask)
    for name, value in itertools.product(SHAPE, [*BAD_RANGES, HUGE, (1, HUGE), 10**40]):
        yield (
            f"{name}={value!r}",
            name,
            functools.partial(sampler, **{name: value, **({"n_unlabeled": 1} if name == SHAPE[-1] else {})}),
        )
    for name, value in itertools.product(SHAPE[:3], [0, (0, 2)]):
        yield f"{name}={value}", name, functools.partial(sampler, **{name: value})
    for name, value in (("episodes", 0), ("episodes", 10**30), ("rank", 2), ("rank", -1), ("world_size", 0)):
        yield f"{name}={value}", name, functools.partial(sampler, **{"world_size": 2, name: value})
    yield "few super-classes", "super_classes", lambda: sampler(super_classes=[0, 1])
    yield "super-classes of negative labels", "labels", lambda: sampler(np.array(LABELS) - 1, super_classes=[0] * 6)
    for value in ("1", 1.5, None, NAN):
        yield f"set_epoch({value!r})", "epoch", functools.partial(sampler().set_epoch, value)
    for state in ({"seed": 0, "epoch": 0}, {"seed": 0, "epoch": 0, "next": "3"}, {"seed": 0, "epoch": 0, "next": -3}):
        yield f"load_state_dict({state})", "next", functools.partial(sampler().load_state_dict, state)
    yield "load_state_dict(None)", "state", lambda: sampler().load_state_dict(None)
    for made, index in itertools.product((sampler, incremental), ("3", 1.5, [1, 2], None, 10**6, -(10**6), NAN)):
        yield f"{made.__name__}[{index!r}]", "episode", functools.partial(made().__getitem__, index)
    for made, number in itertools.product((sampler, incremental), (-1, 10**6, "1", 1.5, None)):
        yield f"{made.__name__}.batch({number!r})", "batch", functools.partial(made().batch, number)
    yield "no base class", "n_base", lambda: incremental(n_base=0)
    yield "negative labels of base classes", "labels", lambda: incremental(np.array(LABELS) - 1)
    yield "items_needed without n_shot", "n_shot", lambda: items_needed({"n_way": 5, "n_query": 2})
    yield "items_needed of a string", "n_way", lambda: items_needed({"n_way": "5", "n_shot": 1, "n_query": 2})
    for value in ([], [1, 2], None, sampler(), "episodes"):
        yield f"EpisodeList({value!r})", "episodes", functools.partial(EpisodeList, value)


def collated(items, **settings):
    return EpisodeCollate(sampler(**settings))(items)


def first(dataset, **settings):
    drawn = sampler(**settings)
    return next(iter(DataLoader(dataset, batch_sampler=drawn, collate_fn=EpisodeCollate(drawn))))


def collate_calls() -> Iterator[Call]:
    at = [i for i in next(iter(sampler()))]
    good = [ITEMS[i] for i in at]
    x, y = torch.stack([x for x, _ in good]), torch.tensor([y for _, y in good])
    for given in (None, "sampler", LABELS, incremental()):
        yield f"EpisodeCollate({type(given).__name__})", "sampler", functools.partial(EpisodeCollate, given)
    for shape in ({"n_way": (1, 3)}, {"n_way": 1, "n_shot": (1, 3)}, {"n_way": (1, 2), "n_query": 1}):
        yield f"ranges with one way {shape}", "n_way", lambda shape=shape: EpisodeCollate(sampler(**shape))
    bad_items = {
        "nothing": [],
        "None": None,
        "a number": 3,
        "one item fewer": good[:-1],
        "items that are None": [None] * len(good),
        "an item that is None": [*good[:-1], None],
        "images alone": [x for x, _ in good],
        "items of one part": [(x,) for x, _ in good],
        "items that are numbers": list(range(len(good))),
        "items of strings": [("a.png", y) for _, y in good],
        "pictures that are None": [(None, y) for _, y in good],
        "items of other shapes": [(torch.zeros(1 + i % 2), y) for i, (_, y) in enumerate(good)],
        "arrays of other shapes": [(np.zeros(1 + i % 2), y) for i, (_, y) in enumerate(good)],
        "labels as floats": [(x, y + 0.5) for x, y in good],
        "labels as whole floats": [(x, float(y)) for x, y in good],
        "labels as tensors of floats": [(x, torch.tensor(y + 0.5)) for x, y in good],
        "labels as strings": [(x, str(y)) for x, y in good],
        "labels that are None": [(x, None) for x, _ in good],
        "label and picture exchanged": [(y, x) for x, y in good],
        "a pair with floats": (x, y + 0.5),
        "a pair of other lengths": (x, y[:-1]),
        "a pair with one-hot labels": (x, torch.eye(6)[y]),
        "Items of floats": Items(x, y.float()),
        "other labels": [(x, 0) for x, _ in good],
        "a dict": {"x": x, "y": y},
    }
    for name, items in bad_items.items():
        yield f"collate: {name}", "items", functools.partial(collated, items)
        ranges = {"n_shot": (1, 1), "n_query": (2, 3)}
        yield f"collate with ranges: {name}", "items", functools.partial(collated, items, **ranges)
    yield "Subset with the labels of the whole", "Subset", lambda: first(Subset(ITEMS, range(6, N)), n_query=5, seed=3)


def interop_calls() -> Iterator[Call]:
    short = Subset(ITEMS, range(30))
    moved = Subset(ITEMS, [(i + 6) % N for i in range(N)])
    for name, made in (("Tasks", Tasks), ("BatchMetaDataLoader", BatchMetaDataLoader)):
        yield f"{name}: a Subset with the whole's labels", "Subset", functools.partial(made, short, sampler())
        for given in (None, "sampler", LABELS):
            yield f"{name}: sampler {type(given).__name__}", "sampler", functools.partial(made, ITEMS, given)
        for given in (None, 3, (item for item in ITEMS)):
            yield f"{name}: dataset {type(given).__name__}", "dataset", functools.partial(made, given, sampler())
        yield f"{name}: unlabeled", "unlabeled", functools.partial(made, ITEMS, sampler(n_unlabeled=1))
    yield "Tasks: labels of another order", "labels", lambda: Tasks(moved, sampler(n_query=10))[0]
    yield (
        "Tasks: items of other shapes",
        "items",
        lambda: Tasks([(torch.zeros(1 + i % 2), y) for i, y in enumerate(LABELS)], sampler())[0],
    )
    yield "Tasks: items that are None", "items", lambda: Tasks([None] * N, sampler())[0]
    yield "Tasks: labels as floats", "labels", lambda: Tasks([(x, y + 0.5) for x, y in ITEMS], sampler())[0]
    yield (
        "BatchMetaDataLoader: another order",
        "labels",
        lambda: next(iter(BatchMetaDataLoader(moved, sampler(n_query=10)))),
    )
    for name, labels in BAD_LABELS.items():
        if name != "items":
            yield (
                f"TaskSampler: labels {name}",
                "labels",
                functools.partial(TaskSampler, Lists(ITEMS, labels), 3, 1, 2, 10),
            )
    yield "TaskSampler: fewer labels", "labels", lambda: TaskSampler(Lists(ITEMS, LABELS[:-3]), 3, 1, 2, 10)
    yield "TaskSampler: a list", "get_labels", lambda: TaskSampler(ITEMS, 3, 1, 2, 10)
    yield "TaskSampler: a Subset", "get_labels", lambda: TaskSampler(short, 3, 1, 2, 10)
    for name in ("n_way", "n_shot", "n_query", "n_tasks"):
        for value in ("3", 1.5, 2.0, None, True, 0, -1, NAN, (1, 2)):
            settings = {"n_way": 3, "n_shot": 1, "n_query": 2, "n_tasks": 10, name: value}
            yield (
                f"TaskSampler({name}={value!r})",
                name,
                functools.partial(TaskSampler, Lists(ITEMS, LABELS), **settings),
            )
    tasks = TaskSampler(Lists(ITEMS, LABELS), 3, 1, 2, 10)
    yield "TaskSampler: no items", "items", lambda: tasks.episodic_collate_fn([])
    yield "TaskSampler: fewer items", "items", lambda: tasks.episodic_collate_fn(ITEMS[:5])
    yield "TaskSampler: other items", "items", lambda: tasks.episodic_collate_fn([None] * 9)
    yield "TaskSampler: epoch", "epoch", lambda: tasks.set_epoch("1")
    for given in (
        None,
        3,
        {},
        SimpleNamespace(indices_to_labels={0: 1, 2: 3}),
        SimpleNamespace(indices_to_labels=None),
    ):
        yield f"labels_of({given})", "indices_to_labels", functools.partial(labels_of, given)
    for label in (0.5, "cat", None):
        given = SimpleNamespace(indices_to_labels={0: label, 1: 1})
        yield f"labels_of with {label!r}", "indices_to_labels", functools.partial(labels_of, given)


def task_calls() -> Iterator[Call]:
    support, query, y = torch.rand(2, 3, 4), torch.rand(2, 6, 4), torch.arange(3).expand(2, 3)
    good = {"support": support, "support_y": y, "query": query, "n_way": 3}
    wrong = {
        "support": [support.numpy(), None, torch.rand(2, 3), torch.rand(3, 3, 4), support.tolist()],
        "support_y": [y.float(), y.int(), y[0], y[:, :2], y + 1, y - 1, None, y.tolist(), y.numpy()],
        "query": [query.numpy(), None, torch.rand(6, 4), torch.rand(3, 6, 4), torch.rand(2, 6, 5)],
        "n_way": ["3", 3.0, True, None, 0, -1, NAN, HUGE],
        "unlabeled": [query.numpy(), "none", torch.rand(3, 6, 4), torch.rand(2, 6, 5), torch.rand(4)],
        "n_base": ["3", 1.5, -1, None, True],
        "class_ids": [torch.rand(2, 3), torch.zeros(2, 4, dtype=torch.long), [1, 2, 3]],
    }
    for name, values in wrong.items():
        for value in values:
            yield (
                f"Task({name}={type(value).__name__} {str(value)[:20]})",
                name,
                functools.partial(Task, **good | {name: value}),
            )
    task, query_y = Task(**good), torch.arange(3).repeat_interleave(2).expand(2, 6)
    good = {"task": task, "query_y": query_y, "class_ids": y}
    wrong = {
        "task": [None, good, support],
        "query_y": [query_y.float(), query_y[:, :5], query_y[0], None, query_y.tolist(), query_y + 1, query_y - 1],
        "class_ids": [y.float(), y[:, :2], None, [1, 2, 3]],
        "unlabeled_y": [query_y.float(), query_y[:, :1], "none"],
    }
    for name, values in wrong.items():
        for value in values:
            yield f"Episode({name}={type(value).__name__})", name, functools.partial(Episode, **good | {name: value})
    for value in (None, [[[1.0]]], np.zeros((1, 2, 2)), torch.zeros(2, 2), torch.zeros(1, 2, 2, dtype=torch.long)):
        yield f"Prediction({type(value).__name__})", "logits", functools.partial(Prediction, value)
    yield "Prediction(loss)", "loss", lambda: Prediction(torch.zeros(1, 2, 2), loss=torch.zeros(1))
    yield "Prediction(auxiliary)", "auxiliary_losses", lambda: Prediction(torch.zeros(1, 2, 2), auxiliary_losses=[max])
    yield "Prediction(unlabeled)", "unlabeled", lambda: Prediction(torch.zeros(1, 2, 2), unlabeled=torch.zeros(2))


BAD = [sampler_calls, collate_calls, interop_calls, task_calls]


@pytest.mark.parametrize("calls", BAD, ids=lambda calls: calls.__name__)
def test_one_line_names_the_argument(calls):
    wrong = [(what, complaint(call, word)) for what, word, call in calls()]
    assert len(wrong) > 30
    assert [(what, why) for what, why in wrong if why] == []


GOOD_LABELS = {
    "a tuple": tuple(LABELS),
    "an array": np.array(LABELS),
    "bytes": np.array(LABELS, dtype=np.uint8),
    "other byte order": np.array(LABELS, dtype=">i4"),
    "unsigned": np.array(LABELS, dtype=np.uint64),
    "a tensor": torch.tensor(LABELS),
    "a small tensor": torch.tensor(LABELS, dtype=torch.int8),
    "numpy's integers": list(np.array(LABELS)),
    "torch's integers": list(torch.tensor(LABELS)),
    "a column of a table": Column(LABELS),
    "a view": np.repeat(np.array(LABELS), 2)[::2],
    "read-only": np.broadcast_to(np.array(LABELS), N),
}
GOOD_MASKS = {
    "an array": np.arange(N) % 12 < 8,
    "a list": [i % 12 < 8 for i in range(N)],
    "numpy's booleans": list(np.arange(N) % 12 < 8),
    "a tensor": torch.arange(N) % 12 < 8,
    "a column of a table": Column(np.arange(N) % 12 < 8),
}


@pytest.mark.parametrize("labels", GOOD_LABELS.values(), ids=GOOD_LABELS)
def test_labels_of_any_kind_are_the_same(labels):
    assert sampler(labels)[5].hash() == sampler()[5].hash()
    assert incremental(labels)[5].hash() == incremental()[5].hash()
    assert sampler(super_classes=labels[:6] if not isinstance(labels, Column) else Column([0] * 6))
    assert list(TaskSampler(Lists(ITEMS, labels), 3, 1, 2, 3)) == list(TaskSampler(Lists(ITEMS, LABELS), 3, 1, 2, 3))


@pytest.mark.parametrize("mask", GOOD_MASKS.values(), ids=GOOD_MASKS)
def test_masks_of_any_kind_are_the_same(mask):
    usual = GOOD_MASKS["an array"]
    settings = {"n_unlabeled": 1}
    assert sampler(labeled=mask, **settings)[5].hash() == sampler(labeled=usual, **settings)[5].hash()
    assert incremental(labeled=mask)[5].hash() == incremental(labeled=usual)[5].hash()


def test_shapes_of_any_kind_are_the_same():
    for shape in ((1, 3), [1, 3], np.array([1, 3]), torch.tensor([1, 3]), (np.int64(1), np.int32(3))):
        assert sampler(n_shot=shape)[300].hash() == sampler(n_shot=(1, 3))[300].hash()
    assert sampler(episodes=np.int64(500))[np.int64(3)].hash() == sampler()[3].hash()
    assert sampler(n_way=1)[2].n_way == 1


def test_a_collate_takes_labels_of_any_kind():
    at = next(iter(sampler()))
    usual = collated([ITEMS[i] for i in at])
    for kind in (np.int64, np.uint8, np.array, torch.tensor, lambda y: torch.tensor([y])[0]):
        found = collated([(ITEMS[i][0], kind(ITEMS[i][1])) for i in at])
        assert torch.equal(found.class_ids, usual.class_ids)
        assert torch.equal(found.task.query, usual.task.query)
    assert collated([ITEMS[i] for i in next(iter(sampler(n_way=1)))], n_way=1).task.n_way == 1
