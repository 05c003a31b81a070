"""Ours against easyfsl and learn2learn on the same work, measured in one run on this machine.

    uv run python scripts/benchmark.py [--rows indices evaluation training] [--data-dir ../shared/data] [--json FILE]

Ours and the peer run in turn (ours, peer, ours, peer, ...), `--repeats` times; the table has the medians in episodes a
second, their ratio (above 1 where ours is faster) and the range of the ratio over the repeats. On a busy machine trust
the ratios, not the rates. An episode is 5-way 1-shot with 15 queries a class.

- `indices`: drawing the indices of episodes from 64 classes of 600 labels: our whole blocks of 256 (arrays), and our batch
  sampler (one list an episode), against easyfsl's `TaskSampler` and learn2learn's task descriptions; then episodes of
  tensors through a `DataLoader` without workers, over 64 numbers an item in memory.
- `evaluation`: from files on disk to the accuracy of Prototypical Networks on miniImageNet's validation classes, Conv4 with
  random weights. Ours: open the image cache (built before the clock starts), embed every image once, score `--episodes`
  episodes; all of it is timed. The peer: `easyfsl.utils.evaluate` in float32, which decodes and embeds the images of every
  episode anew, on `--peer-episodes` episodes; its rate is that of an episode, without the time to open the data set, and
  its transform does no resize. Before that both answer the same episodes: float32 scores must agree to 0.1 %, and the
  accuracy of the timed run (in the precision shown) to one point.
- `training`: optimiser steps (one episode, Conv4, 84 x 84, Adam) on images in memory. Ours: `Training.advance`, which draws
  the episode, gathers uint8 images and normalises them. The peer: the computation of learn2learn's Prototypical Networks
  example in float32, its images normalised and its episodes drawn beforehand. First both must find the same float32 loss.

The peers run in a process of their own, with torch as a user of theirs finds it: on a CPU `Hardware.choose` tells the
C library to keep freed memory, which would speed them up too. All run on the same device with the same number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import importlib
import io
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Sampler

from episodic import EpisodeCollate, EpisodeIndices, EpisodeSampler
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Augment, Normalize
from episodic.data.miniimagenet import MiniImageNet
from episodic.data.store import ImageStore
from episodic.hardware import Hardware
from episodic.learners.prototypical import Prototypical
from episodic.loop import Trainer, Training, evaluate, predictor
from episodic.schedule import constant
from episodic.score import table

WAY, SHOT, QUERY = 5, 1, 15
ENDLESS = 10**9  # episodes


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of the table: two functions that measure and return episodes a second."""

    row: str
    ours: Callable[[], float]
    peer: Callable[[], float]


def indices(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Episode indices from labels, and episodes through a `DataLoader`."""
    items = Items()
    sampler = EpisodeSampler(items.labels, WAY, SHOT, QUERY, episodes=ENDLESS)
    loader = DataLoader(items, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))
    blocks, lists, episodes = (sampler.block(b) for b in itertools.count()), iter(sampler), iter(loader)

    def measure(step: Callable[[], int]) -> Callable[[], float]:
        return lambda: rate(step, args.seconds)

    def theirs(kind: str) -> Callable[[], float]:
        return lambda: in_child(peer_indices, kind, args.seconds)

    by_block, by_list = measure(lambda: len(next(blocks))), measure(lambda: take(lists))
    yield Comparison("indices, blocks / easyfsl TaskSampler", by_block, theirs("easyfsl"))
    yield Comparison("indices, lists / easyfsl TaskSampler", by_list, theirs("easyfsl"))
    yield Comparison("DataLoader / easyfsl TaskSampler", measure(lambda: take(episodes)), theirs("easyfsl loader"))
    yield Comparison("indices, blocks / learn2learn FusedNWaysKShots", by_block, theirs("learn2learn fused"))
    yield Comparison("indices, blocks / learn2learn NWays+KShots", by_block, theirs("learn2learn"))


def peer_indices(kind: str, seconds: float) -> float:
    items = Items()
    if kind.startswith("easyfsl"):
        sampler = task_sampler(items, ENDLESS)
        loader = DataLoader(items, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
        episodes = iter(loader if kind == "easyfsl loader" else sampler)
    else:
        data, transforms = peer("learn2learn.data"), peer("learn2learn.data.transforms")
        known = data.MetaDataset(items)
        if kind == "learn2learn fused":
            chain = [transforms.FusedNWaysKShots(known, n=WAY, k=SHOT + QUERY)]
        else:
            chain = [transforms.NWays(known, WAY), transforms.KShots(known, SHOT + QUERY)]
        tasks = data.TaskDataset(known, task_transforms=chain)
        episodes = (tasks.sample_task_description() for _ in itertools.count())
    return rate(lambda: take(episodes), seconds)


class Items(Dataset):
    """64 classes of 600 items of 64 numbers, in memory, with the method that easyfsl asks for."""

    def __init__(self):
        self.labels = np.repeat(np.arange(64), 600).tolist()
        self.items = torch.zeros(len(self.labels), 64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.items[index], self.labels[index]

    def get_labels(self) -> list[int]:
        return self.labels


def evaluation(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Accuracy over many episodes of miniImageNet's validation classes, from disk."""
    dataset = MiniImageNet(args.data_dir)
    listing, store = dataset.listing("val"), dataset.store("val")
    if any(row is not None for _, row in listing.items):
        raise FileNotFoundError("easyfsl reads image files, and this miniImageNet is a pickle")
    learner = hardware.place(Prototypical(conv4())).eval()
    normalize = Normalize(dataset.mean, dataset.std).to(hardware.device)
    tasks = min(args.peer_episodes, args.episodes)
    few = EpisodeSampler(store.labels.numpy(), WAY, SHOT, QUERY, episodes=tasks)[0:tasks]

    with tempfile.TemporaryDirectory() as folder:
        specs = Path(folder) / "val.csv"  # as easyfsl wants it; an absolute image_name is found whatever the root
        with specs.open("w", newline="") as file:
            names = [listing.class_names[label] for label in listing.labels]
            paths = [path.resolve() for path, _ in listing.items]
            csv.writer(file).writerows([("class_name", "image_name"), *zip(names, paths, strict=True)])
        setting = (str(specs), dataset.mean, dataset.std, str(hardware.device))

        scores, peer_accuracy = in_child(peer_answers, *setting, by_class(few).tolist(), few.class_ids.tolist())
        exact = dataclasses.replace(hardware, dtype=torch.float32)
        with torch.inference_mode():
            predict, _ = predictor(learner, store, normalize, exact, cached=False)
            logits = torch.cat([predict(few[i : i + 1])[1].logits for i in range(tasks)]).cpu().numpy()
        error = np.abs(logits + scores**2).max() / np.abs(logits).max()  # easyfsl's distances are not squared
        same = (logits.argmax(-1) == scores.argmax(-1)).mean()
        correct = (logits.argmax(-1) == few.query_y).mean()
        print(
            f"The same {tasks} episodes in float32: scores equal to {error:.0e}, {same:.2%} of {scores[..., 0].size:,} ",
            end="",
        )
        print(f"answers equal, accuracy {correct:.2%} (easyfsl {peer_accuracy:.2%})")
        check(error < 1e-3 and same > 0.998 and abs(correct - peer_accuracy) < 0.002, "evaluation", "easyfsl")

        def ours() -> float:
            started = time.perf_counter()
            opened = MiniImageNet(args.data_dir).store("val")
            episodes = EpisodeSampler(opened.labels.numpy(), WAY, SHOT, QUERY, episodes=args.episodes)
            result = evaluate(learner, opened, episodes, normalize, hardware)
            seconds = time.perf_counter() - started
            first = result.accuracies[
                :tasks
            ].mean()  # the very episodes of above: episode i depends on seed and i alone
            print(
                f"ours: {args.episodes:,} episodes in {seconds:.1f} s, {seconds / args.episodes:.2e} s an episode; ",
                end="",
            )
            print(f"accuracy of the first {tasks}: {first:.2%} (easyfsl {peer_accuracy:.2%})")
            check(abs(first - peer_accuracy) < 0.01, "evaluation", "easyfsl")
            return args.episodes / seconds

        def theirs() -> float:
            speed = in_child(peer_evaluation, *setting, tasks)
            print(f"easyfsl: {tasks} episodes in {tasks / speed:.1f} s, {1 / speed:.2e} s an episode; ", end="")
            print(f"{args.episodes:,} would take {args.episodes / speed:,.0f} s")
            return speed

        yield Comparison("evaluation / easyfsl evaluate", ours, theirs)


def peer_evaluation(specs: str, mean: tuple, std: tuple, device: str, tasks: int) -> float:
    dataset, model = easyfsl_parts(specs, mean, std, device)
    sampler = task_sampler(dataset, tasks)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    started = time.perf_counter()
    peer("easyfsl.utils").evaluate(model, loader, device=device, use_tqdm=False)
    return tasks / (time.perf_counter() - started)


def peer_answers(
    specs: str, mean: tuple, std: tuple, device: str, episodes: list[list[int]], class_ids: list[list[int]]
) -> tuple[np.ndarray, float]:
    """easyfsl's scores `[E, Q, way]`, classes in the order of `class_ids`, and its accuracy, on given episodes."""
    dataset, model = easyfsl_parts(specs, mean, std, device)
    collate = task_sampler(dataset, 1).episodic_collate_fn
    loader = DataLoader(dataset, batch_sampler=episodes, collate_fn=collate)
    scores = []
    with torch.no_grad():
        for (support, support_y, query, _, order), ids in zip(loader, class_ids, strict=True):
            model.process_support_set(support.to(device), support_y.to(device))
            scores.append(model(query.to(device)).cpu()[:, [order.index(c) for c in ids]].numpy())
    return np.stack(scores), peer("easyfsl.utils").evaluate(model, loader, device=device, use_tqdm=False)


def easyfsl_parts(specs: str, mean: tuple, std: tuple, device: str) -> tuple[Any, torch.nn.Module]:
    """easyfsl's data set, reading the files as they are asked for, and its learner around our backbone."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize(mean, std)])  # the files are 84 x 84 already
    dataset = peer("easyfsl.datasets").MiniImageNet("/", specs_file=specs, transform=transform)
    return dataset, peer("easyfsl.methods").PrototypicalNetworks(conv4()).eval().to(device)


def training(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Optimiser steps of Prototypical Networks on random images in memory."""
    store, sampler, normalize = training_data()

    def build(hardware: Hardware) -> Training:
        learner = hardware.place(Prototypical(conv4()))
        return Training(
            learner=learner,
            store=store,
            sampler=sampler,
            normalize=normalize.to(hardware.device),
            augment=Augment(),
            optimizer=torch.optim.Adam(learner.parameters(), lr=0.001),
            schedule=constant(),
            trainer=Trainer(steps=ENDLESS),
            hardware=hardware,
        )

    loss = build(dataclasses.replace(hardware, dtype=torch.float32)).advance()[0].item()
    peer_loss, _ = in_child(peer_training, str(hardware.device), 0.0)
    print(f"The same first step in float32: loss {loss:.5f} (learn2learn {peer_loss:.5f})")
    check(abs(loss - peer_loss) < 1e-3 * peer_loss, "training", "learn2learn")
    ready = build(hardware)

    def step() -> int:
        losses = [ready.advance()[0] for _ in range(4)]
        losses[-1].item()  # waits for an accelerator
        return len(losses)

    device = str(hardware.device)
    yield Comparison(
        "training / learn2learn's example",
        lambda: rate(step, 3 * args.seconds),
        lambda: in_child(peer_training, device, 3 * args.seconds)[1],
    )


def peer_training(device: str, seconds: float) -> tuple[float, float]:
    """Loss of the first step and episodes a second, of the computation of learn2learn's Prototypical Networks example."""
    store, sampler, normalize = training_data()
    images = normalize(store.images)
    episodes = itertools.cycle(torch.from_numpy(by_class(sampler[0:256])))
    model = peer("learn2learn.vision.models").CNN4Backbone(hidden_size=64, channels=3, max_pool=True)
    for block, (conv, norm, *_) in zip(model, conv4().blocks, strict=True):
        block.conv.load_state_dict(conv.state_dict())
        block.normalize.load_state_dict(norm.state_dict())
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    labels = torch.arange(WAY).repeat_interleave(QUERY).to(device)

    def step() -> float:
        embeddings = model(images[next(episodes)].to(device)).unflatten(0, (WAY, SHOT + QUERY))
        prototypes, query = embeddings[:, :SHOT].mean(1), embeddings[:, SHOT:].flatten(0, 1)
        logits = -((query.unsqueeze(1) - prototypes.unsqueeze(0)) ** 2).sum(2)
        loss = cross_entropy(logits, labels)
        (logits.argmax(1) == labels).float().mean()
        value = loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value

    return step(), rate(lambda: len([step()]), seconds)


def training_data() -> tuple[ImageStore, EpisodeSampler, Normalize]:
    """64 classes of 20 random images, endless episodes of them; the same in every process."""
    labels = torch.arange(64).repeat_interleave(20)
    images = torch.randint(256, (len(labels), 3, 84, 84), generator=torch.Generator().manual_seed(0)).byte()
    names, items = tuple(map(str, range(64))), tuple(map(str, range(len(labels))))
    store = ImageStore(images, labels, names, items, None, (), "random", "train", "random")
    return store, EpisodeSampler(labels.numpy(), WAY, SHOT, QUERY, episodes=ENDLESS), Normalize([0.5] * 3, [0.25] * 3)


def conv4() -> Conv4:
    """The same random weights in every process."""
    torch.manual_seed(0)
    return Conv4()


def by_class(episodes: EpisodeIndices) -> np.ndarray:
    """`[E, way * (shot + query)]`, support then query of each class, as the peers lay their episodes out."""
    roles = [role.reshape(len(episodes), WAY, -1) for role in (episodes.support, episodes.query)]
    return np.concatenate(roles, axis=2).reshape(len(episodes), -1)


def rate(step: Callable[[], int], seconds: float) -> float:
    """Episodes a second of `step`, which returns how many it did: for `seconds`, after one call that does not count."""
    step()
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or done == 0:
        done += step()
    return done / elapsed


def take(episodes: Iterator, count: int = 32) -> int:
    return sum(1 for _ in itertools.islice(episodes, count))


def check(passed: bool, row: str, name: str) -> None:
    if not passed:
        raise SystemExit(f"{row}: ours and {name}'s results differ, so a ratio of their speeds would mean nothing")


def peer(name: str) -> Any:
    """The peer's module, imported without its notices."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def task_sampler(dataset: Any, tasks: int) -> Any:
    """easyfsl's sampler. It hands `data_source` to torch's `Sampler.__init__`, which no longer takes it; here it may."""
    samplers = peer("easyfsl.samplers")
    with mock.patch.object(Sampler, "__init__", return_value=None):
        return samplers.TaskSampler(dataset, WAY, SHOT, QUERY, tasks)


@functools.cache
def _child() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def in_child(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)` in the peers' process."""
    return _child().submit(function, *arguments).result()


def alternate(comparison: Comparison, repeats: int) -> tuple[dict[str, Any], list[str]]:
    """What the JSON says of a comparison, and its row of the table."""
    pairs = [(comparison.ours(), comparison.peer()) for _ in range(repeats)]
    ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    entry = {"row": comparison.row, "ours": ours, "peer": theirs, "unit": "episodes/s", "ratio": ours / theirs}
    numbers = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in (ours, theirs)]
    spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
    return entry, [comparison.row, *numbers, f"{ours / theirs:.3g}", spread]


ROWS = {"indices": indices, "evaluation": evaluation, "training": training}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to measure; default: all")
    parser.add_argument("--data-dir", default="../shared/data", help="the folder that holds miniimagenet/")
    parser.add_argument("--episodes", type=int, default=10_000, help="episodes of our evaluation")
    parser.add_argument("--peer-episodes", type=int, default=20, help="episodes of the peer's evaluation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of each measurement of a rate; training takes three times that"
    )
    parser.add_argument("--json", type=Path, help="also write the rows here, as a list of objects")
    args = parser.parse_args(argv)

    hardware = Hardware.choose()
    print(
        f"{hardware.describe()} (peers: fp32); load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}",
        end="",
    )
    for package in ("torch", "numpy", "episodic", "easyfsl", "learn2learn"):
        with contextlib.suppress(PackageNotFoundError):
            print(f", {package} {version(package)}", end="")
    print()

    entries, lines = [], []
    for name in args.rows:
        try:
            for comparison in ROWS[name](args, hardware):
                try:
                    entry, line = alternate(comparison, args.repeats)
                except ImportError as error:
                    print(f"{comparison.row}: skipped: {error}")
                else:
                    entries.append(entry)
                    lines.append(line)
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}: skipped: {str(error).splitlines()[0]}")
    print("\n" + table(["ours / peer", "ours, episodes/s", "peer, episodes/s", "ratio", "over repeats"], lines))
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
