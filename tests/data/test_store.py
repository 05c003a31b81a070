import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from episodic import EpisodeCollate, EpisodeSampler
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
