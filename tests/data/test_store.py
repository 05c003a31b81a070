import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from episodic import EpisodeCollate, EpisodeSampler
from episodic.data.labels.folds import restricted
from episodic.data.labels.held_out import join_base
from episodic.episodes.collate import Items
from tests.conftest import random_store


def test_gather_takes_any_shape_and_the_hash_names_the_classes():
    store = random_store()
    index = torch.tensor([[3, 0], [5, 3]])
    assert torch.equal(store.gather(index), store.images[index])
    assert store[7][1] == store.labels[7]
    turned = dataclasses.replace(store, class_names=store.class_names[::-1])
    assert turned.class_hash == store.class_hash != random_store(split="val").class_hash


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loader_gets_what_single_items_make(workers):
    store = random_store()
    chosen = [7, 0, 150, 33, 34, 2]
    for data, rows in ((store, range(len(store))), (Subset(store, chosen), chosen)):
        singles = [store[i] for i in rows]
        for number, batch in enumerate(DataLoader(data, batch_size=4, num_workers=workers)):
            expected = default_collate(singles[4 * number : 4 * number + 4])
            assert type(batch) is type(expected)
            for ours, theirs in zip(batch, expected, strict=True):
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)


def test_episodes_of_a_loader_are_gathered_at_once(monkeypatch):
    store = random_store()
    sampler = EpisodeSampler(store.labels, 3, 2, 4, episodes=10, episodes_per_batch=5)
    monkeypatch.delattr(type(store), "__getitem__")
    monkeypatch.setattr(Items, "__getitem__", None)
    loader = DataLoader(store, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))
    for number, episode in enumerate(loader):
        indices = sampler.batch(number)
        assert torch.equal(episode.task.support, store.images[torch.from_numpy(indices.support)])
        assert torch.equal(episode.task.query, store.images[torch.from_numpy(indices.query)])
        assert np.array_equal(episode.query_y, indices.query_y)
        assert np.array_equal(episode.class_ids, indices.class_ids)
    assert number == 1


def test_says_what_it_holds():
    store = random_store(classes=60, per_class=20)
    assert repr(store) == "ImageStore(patterns train: 1,200 images of 60 classes)"
    joined = dataclasses.replace(store, n_base=40)
    assert repr(joined) == "ImageStore(patterns train: 1,200 images of 60 classes, 40 of them base classes)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": torch.rand(6, 1, 4, 4)},
            r"uint8 \[N, C, H, W\] on the scale 0\.\.255, got float32 .*from the scale 0\.\.1, \(",
        ),
        ({"images": torch.zeros(6, 1, 4, 4, dtype=torch.int64)}, r"got int64 \[6, 1, 4, 4\]$"),
        ({"images": torch.zeros(6, 4, 4, dtype=torch.uint8)}, r"got uint8 \[6, 4, 4\]"),
        ({"images": np.zeros((6, 1, 4, 4), np.uint8)}, "images must be a tensor of uint8 .*, got ndarray"),
        ({"labels": torch.zeros(6)}, r"labels must be a tensor of int64 \[N\], got float32 \[6\]"),
        ({"labels": [0, 0, 0, 1, 1, 1]}, "labels must be a tensor of int64 .*, got list"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "a label for each of 6 images, got 5"),
        ({"labels": torch.tensor([0, 0, 0, 1, 1, 2])}, r"labels must be indices into the 2 class_names, 0\.\.1, got 2"),
        ({"labels": torch.tensor([0, 0, -1, 1, 1, 1])}, "got -1"),
        ({"class_names": ("cat", "cat")}, "class_names must differ, got 'cat' more than once"),
        ({"class_names": ["cat", "dog"]}, "class_names must be a tuple of strings, got list"),
        ({"class_names": (1, 2)}, "class_names must be a tuple of strings"),
        ({"item_names": tuple("abcde")}, "item_names must have a name for each of 6 images, got 5"),
        ({"item_names": tuple("abcdea")}, "item_names must differ, got 'a' more than once"),
        ({"super_classes": torch.tensor([0])}, "super_classes must have one for each of 2 classes, got 1"),
        (
            {"super_classes": torch.tensor([0, 1]), "super_class_names": ("pets",)},
            "into the 1 super_class_names, .* got 1",
        ),
        ({"n_base": 3}, r"n_base must be one of 0\.\.2 classes, got 3"),
        ({"n_base": -1}, "got -1"),
    ],
)
def test_what_does_not_fit_together_is_refused_when_it_is_made(change, message):
    store = random_store(classes=2, per_class=3, size=4)
    vars(store).update(change)  # the types that tests check would refuse some of these first
    with pytest.raises((TypeError, ValueError), match=message):
        store.__post_init__()


def test_the_parts_are_checked_when_a_store_is_made():
    with pytest.raises(ValueError, match="n_base must be"):
        dataclasses.replace(random_store(), n_base=9)


def test_images_need_no_names_and_classes_no_images():
    store = random_store(classes=2, per_class=3, size=4)
    bare = dataclasses.replace(store, item_names=(), class_names=("cat", "dog", "owl"))
    few = restricted(bare, np.arange(6) != 2)
    assert (len(few), few.item_names) == (5, ())
    both = join_base(bare, np.arange(6) != 2, dataclasses.replace(store, item_names=(), class_names=("wren", "tit")))
    assert (len(both), both.item_names) == (11, ())
