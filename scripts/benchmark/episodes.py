"""Time drawing episodes: the rows `indices` of the benchmark.

The data are 64 classes of 600 items of 64 numbers, in memory. Two things are timed:

- Indices alone: our whole blocks of 256 episodes (arrays) and our batch sampler (one list an episode), against easyfsl's
  `TaskSampler` and learn2learn's task descriptions.
- Episodes of tensors: a `DataLoader` without workers over a data set that is asked item by item, against the same with easyfsl's
  sampler; and a `DataLoader` over an `ImageStore`, 64 episodes a batch, against learn2learn's `TaskDataset.sample`, whose
  transforms load the items and number the classes anew.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from benchmark.measuring import ENDLESS, QUERY, SHOT, WAY, Comparison, in_child, peer, rate, take, task_sampler
from episodic import EpisodeCollate, EpisodeSampler
from episodic.data.store import ImageStore
from episodic.run.device import Hardware

TARGET = 20


def indices(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Compare episode indices drawn from labels, and episodes from a `DataLoader`."""
    items = Items()
    sampler = EpisodeSampler(items.store.labels, WAY, SHOT, QUERY, episodes=ENDLESS)
    blocks, lists = (sampler.block(b) for b in itertools.count()), iter(sampler)
    episodes, batches = iter(loader(items)), iter(loader(items.store, episodes_per_batch=64))

    def against(row: str, step: Callable[[], int], target: float | None = None) -> Comparison:
        seconds = args.seconds
        return Comparison(row, lambda: rate(step, seconds), lambda: in_child(peer_indices, row, seconds), target)

    yield against("indices, blocks / easyfsl TaskSampler", lambda: len(next(blocks)), TARGET)
    yield against("indices, lists / easyfsl TaskSampler", lambda: take(lists))
    yield against("DataLoader / easyfsl TaskSampler", lambda: take(episodes))
    yield against("indices, blocks / learn2learn FusedNWaysKShots", lambda: len(next(blocks)), TARGET)
    yield against("indices, blocks / learn2learn NWays+KShots", lambda: len(next(blocks)))
    yield against("DataLoader, 64 at once / learn2learn TaskDataset.sample", lambda: len(next(batches).query_y), TARGET)


def loader(dataset: Items | ImageStore, episodes_per_batch: int = 1) -> DataLoader:
    labels, batch = dataset.labels, episodes_per_batch
    sampler = EpisodeSampler(labels, WAY, SHOT, QUERY, episodes=ENDLESS, episodes_per_batch=batch)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))


def peer_indices(row: str, seconds: float) -> float:
    items = Items()
    if "easyfsl" in row:
        sampler = task_sampler(items, ENDLESS)
        loader = DataLoader(items, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
        episodes = iter(loader if "DataLoader" in row else sampler)
    else:
        data, transforms = peer("learn2learn.data"), peer("learn2learn.data.transforms")
        known = data.MetaDataset(items)
        draw = [transforms.FusedNWaysKShots(known, n=WAY, k=SHOT + QUERY)]
        if "NWays+KShots" in row:
            draw = [transforms.NWays(known, WAY), transforms.KShots(known, SHOT + QUERY)]
        load = [transforms.LoadData(known), transforms.RemapLabels(known)] if "DataLoader" in row else []
        tasks = data.TaskDataset(known, task_transforms=draw + load)
        sample = tasks.sample if load else tasks.sample_task_description
        episodes = (sample() for _ in itertools.count())
    return rate(lambda: take(episodes), seconds)


class Items(Dataset):
    """A data set that is asked item by item, with the method that easyfsl needs. `store` has the same items."""

    def __init__(self):
        labels = torch.arange(64).repeat_interleave(600)
        images = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
        self.store = ImageStore(images, labels, tuple(map(str, range(64))), (), None, (), "zeros", "train", "zeros")
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.store.images[index], self.labels[index]

    def get_labels(self) -> list[int]:
        return self.labels
