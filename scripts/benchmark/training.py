"""Time optimizer steps of Prototypical Networks on images in memory: the rows `training` and `omniglot` of the benchmark.

A step is one episode with Conv4 and Adam. Ours is `training_step` of `trainer=episodes`, which draws the episode, gathers uint8
images and normalizes them. The peers work in float32; their images are normalized and their episodes drawn before the clock starts:

- `training`: 84 x 84, 5-way 1-shot 15-query, the computation of learn2learn's example with its backbone;
- `omniglot`: 28 x 28, 60-way 1-shot 5-query (360 images), the same loop with a backbone in plain torch: convolution, batch norm,
  ReLU, max-pooling.

Before anything is timed, both sides must find the same float32 loss.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmark.measuring import DIFFERENT, ENDLESS, SHOT, Comparison, by_class, conv4, in_child, peer, rate
from episodic import EpisodeSampler
from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.train.episodes import EpisodicTraining
from episodic.train.procedure import Setup


class Setting(NamedTuple):
    peer: str
    target: float
    n_classes: int
    way: int
    query: int
    channels: int
    size: int


SETTINGS = {
    "training": Setting("learn2learn", target=4, n_classes=64, way=5, query=15, channels=3, size=84),
    "omniglot": Setting("plain torch", target=3, n_classes=1028, way=60, query=5, channels=1, size=28),
}


def training(args: argparse.Namespace, hardware: Hardware, row: str = "training") -> Iterator[Comparison]:
    """Optimizer steps on random images in memory."""
    setting, data = SETTINGS[row], training_data(row)
    loss = ready(row, data, Hardware(hardware.device, torch.float32)).training_step()[0].item()
    peer_loss, _ = in_child(peer_training, row, str(hardware.device), 0.0)
    print(f"{row}: the same first step in float32: loss {loss:.5f} ({setting.peer} {peer_loss:.5f})")
    if abs(loss - peer_loss) > 1e-3 * peer_loss:
        raise SystemExit(f"{row}: {DIFFERENT}")
    procedure, seconds = ready(row, data, hardware), 3 * args.seconds

    def step() -> int:
        procedure.training_step()[0].item()  # the peers read the loss too; reading it waits for an accelerator
        return 1

    def theirs() -> float:
        return in_child(peer_training, row, str(hardware.device), seconds)[1]

    yield Comparison(f"{row} / {setting.peer}", lambda: rate(step, seconds), theirs, setting.target)


def ready(row: str, data: tuple[ImageStore, EpisodeSampler, Normalize], hardware: Hardware) -> EpisodicTraining:
    """A training procedure at its first step."""
    store, sampler, normalize = data
    learner = hardware.place(Prototypical(conv4(SETTINGS[row].channels, SETTINGS[row].size), temperature=1.0))
    setup = Setup(
        learner=learner,
        store=store,
        normalize=normalize.to(hardware.device),
        optimizer=lambda groups: torch.optim.Adam(groups, lr=0.001),
        hardware=hardware,
        episodes=lambda count, per_step: sampler,
    )
    return EpisodicTraining(setup, steps=ENDLESS)


def peer_training(row: str, device: str, seconds: float) -> tuple[float, float]:
    """`(loss of the first step, episodes a second)`."""
    way, query = SETTINGS[row].way, SETTINGS[row].query
    store, sampler, normalize = training_data(row)
    images = normalize(store.images)
    episodes = itertools.cycle(torch.from_numpy(by_class(sampler[0:256])))
    model = peer_backbone(row).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    labels = torch.arange(way).repeat_interleave(query).to(device)

    def step() -> float:
        embeddings = model(images[next(episodes)].to(device)).unflatten(0, (way, SHOT + query))
        prototypes, queries = embeddings[:, :SHOT].mean(1), embeddings[:, SHOT:].flatten(0, 1)
        logits = -((queries.unsqueeze(1) - prototypes.unsqueeze(0)) ** 2).sum(2)
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step(), rate(lambda: len([step()]), seconds)


def peer_backbone(row: str) -> nn.Module:
    """The backbone of learn2learn or of plain torch, with the weights of ours."""
    ours = conv4(SETTINGS[row].channels, SETTINGS[row].size)
    if row == "training":
        model = peer("learn2learn.vision.models").CNN4Backbone(hidden_size=64, channels=3, max_pool=True)
    else:
        inputs = (SETTINGS[row].channels, 64, 64, 64)
        blocks = [
            nn.Sequential(nn.Conv2d(n, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2))
            for n in inputs
        ]
        model = nn.Sequential(*blocks, nn.Flatten())
    for kind in (nn.Conv2d, nn.BatchNorm2d):
        theirs, given = ([m for m in net.modules() if isinstance(m, kind)] for net in (model, ours))
        for layer, same in zip(theirs, given, strict=True):
            layer.load_state_dict(same.state_dict())
    return model


def training_data(row: str) -> tuple[ImageStore, EpisodeSampler, Normalize]:
    """Classes of 20 random images, and endless episodes of them. They are the same in every process."""
    setting = SETTINGS[row]
    labels = torch.arange(setting.n_classes).repeat_interleave(20)
    shape = (len(labels), setting.channels, setting.size, setting.size)
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    names = tuple(map(str, range(setting.n_classes)))
    store = ImageStore(images, labels, names, (), None, (), "random", "train", "random")
    sampler = EpisodeSampler(labels, setting.way, SHOT, setting.query, episodes=ENDLESS)
    return store, sampler, Normalize([0.5] * setting.channels, [0.25] * setting.channels)
