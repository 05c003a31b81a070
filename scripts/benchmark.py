"""Ours against easyfsl, learn2learn and scikit-learn on the same work, measured in one run on this machine.

    uv run python scripts/benchmark.py [--rows indices evaluation training propagation learners refresh losses]
                                       [--data-dir ../shared/data] [--json FILE]

Ours and the peer run in turn (ours, peer, ours, peer, ...), `--repeats` times; the table has the medians in episodes a
second, their ratio (above 1 where ours is faster) and the range of the ratio over the repeats. On a busy machine trust
the ratios, not the rates. An episode is 5-way 1-shot with 15 queries a class.

- `indices`: drawing the indices of episodes from 64 classes of 600 labels: our whole blocks of 256 (arrays), and our
  batch sampler (one list an episode), against easyfsl's `TaskSampler` and learn2learn's task descriptions; then
  episodes of tensors through a `DataLoader` without workers, over 64 numbers an item in memory.
- `evaluation`: from files to the accuracy of Prototypical Networks (Conv4, random weights) on miniImageNet's
  validation classes. Ours: open the image cache (built before the clock starts), embed every image once, score
  `--episodes` episodes; all of it is timed. The peer: `easyfsl.utils.evaluate` in float32, which decodes and embeds
  the images of each episode anew, on `--peer-episodes` episodes; opening its data set is not timed, and nothing is
  resized. Before that both answer the same episodes: float32 scores must agree to 0.1 %, and the accuracy of the
  timed run (in our precision) to one point.
- `training`: optimiser steps (one episode, Conv4, 84 x 84, Adam) on images in memory. Ours: `Training.advance`, which
  draws the episode, gathers uint8 images and normalises them. The peer: the computation of learn2learn's Prototypical
  Networks example in float32, its images normalised and its episodes drawn beforehand. First both must find the same
  float32 loss.
- `propagation`: label propagation on 1,000 episodes of 25 unlabeled items (5 a class) and features of 64 numbers, which
  lie in memory: our closed form, 50 episodes at once, against scikit-learn fit to one after the other, with the same
  Gaussian kernel and alpha. Transductive, on graphs of 105 items: against `LabelSpreading` with its defaults (max_iter 30,
  tol 1e-3) at alpha 0.8, and with tol 1e-6 at the paper's 0.99, where the defaults stop far from the solution. Inductive,
  on graphs of 30 items: against `LabelPropagation` with its defaults (max_iter 1000, tol 1e-3), fit and then asked for the
  queries. Before that labels must agree on 99.9 % of the queries, and distributions to 1e-5 with tol 1e-12.
- `refresh`: new pseudo-labels for miniImageNet's 38,400 training images, 10 % of them labeled, as Iscen et al. make them before
  each epoch (Conv4 with random weights, 50 neighbours, alpha 0.99, 20 iterations), each stage once, in seconds. The peers:
  scikit-learn's exact neighbours, SciPy's conjugate gradients class after class. They must find the same to 0.1 %.
- `losses`: forward and backward pass of each loss of embeddings that pytorch-metric-learning has too (4 items a class, float32):
  its time and the most memory it takes, each side in a process of its own; and how far apart both are: value, gradient,
  and gradient for embeddings in bf16, as shares of the largest entry.
- `learners`: no peer. One forward and backward pass of each learner at its paper's miniImageNet episode (random images,
  random weights, in our precision), and the most memory that the process takes beside what it had before it.

The peers run in a process of their own, as their users run them: on a CPU `Hardware.choose` tells the C library to keep
freed memory, which would speed them up too. Device and number of threads are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmark_learners import HEADER as LEARNERS_HEADER
from benchmark_learners import learners
from benchmark_losses import losses
from benchmark_propagation import CASES, compare, our_step, peer_step
from benchmark_refresh import refresh
from PIL import Image
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
DIFFERENT = "our results differ from the peer's, so a ratio of speeds would mean nothing"
Comparison = tuple[str, Callable[[], float], Callable[[], float]]  # a row: its name, and ours and the peer's episodes/s


def indices(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Episode indices from labels, and episodes through a `DataLoader`."""
    items = Items()
    sampler = EpisodeSampler(items.labels, WAY, SHOT, QUERY, episodes=ENDLESS)
    loader = DataLoader(items, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))
    blocks, lists, episodes = (sampler.block(b) for b in itertools.count()), iter(sampler), iter(loader)

    def against(row: str, step: Callable[[], int]) -> Comparison:
        return row, lambda: rate(step, args.seconds), lambda: in_child(peer_indices, row, args.seconds)

    yield against("indices, blocks / easyfsl TaskSampler", lambda: len(next(blocks)))
    yield against("indices, lists / easyfsl TaskSampler", lambda: take(lists))
    yield against("DataLoader / easyfsl TaskSampler", lambda: take(episodes))
    yield against("indices, blocks / learn2learn FusedNWaysKShots", lambda: len(next(blocks)))
    yield against("indices, blocks / learn2learn NWays+KShots", lambda: len(next(blocks)))


def peer_indices(row: str, seconds: float) -> float:
    items = Items()
    if "easyfsl" in row:
        sampler = task_sampler(items, ENDLESS)
        loader = DataLoader(items, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
        episodes = iter(loader if "DataLoader" in row else sampler)
    else:
        data, transforms = peer("learn2learn.data"), peer("learn2learn.data.transforms")
        known = data.MetaDataset(items)
        fused = [transforms.FusedNWaysKShots(known, n=WAY, k=SHOT + QUERY)]
        plain = [transforms.NWays(known, WAY), transforms.KShots(known, SHOT + QUERY)]
        tasks = data.TaskDataset(known, task_transforms=fused if "Fused" in row else plain)
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
    path, row = listing.items[0]
    if row is not None or Image.open(path).size != (84, 84):
        raise FileNotFoundError("the comparison needs miniImageNet as image files of 84 x 84")
    learner = hardware.place(Prototypical(conv4())).eval()
    normalize = Normalize(dataset.mean, dataset.std).to(hardware.device)
    tasks = min(args.peer_episodes, args.episodes)
    few = EpisodeSampler(store.labels.numpy(), WAY, SHOT, QUERY, episodes=tasks)[0:tasks]
    # easyfsl's table of files; an absolute image_name is found whatever the root
    rows = zip(listing.labels, listing.items, strict=True)
    lines = [f'{listing.class_names[label]},"{path.resolve()}"' for label, (path, _) in rows]
    setting = ("\n".join(["class_name,image_name", *lines]), str(hardware.device))
    scores, peer_accuracy = in_child(peer_answers, *setting, by_class(few).tolist(), few.class_ids.tolist())
    with torch.inference_mode():
        predict, _ = predictor(learner, store, normalize, Hardware(hardware.device, torch.float32), cached=False)
        logits = torch.cat([predict(few[i : i + 1])[1].logits for i in range(tasks)]).cpu().numpy()
    error = np.abs(logits + scores**2).max() / np.abs(logits).max()  # easyfsl's distances are not squared
    same = (logits.argmax(-1) == scores.argmax(-1)).mean()
    correct = (logits.argmax(-1) == few.query_y).mean()
    print(f"evaluation: the same {tasks} episodes in float32: scores differ by at most {error:.0e} of the largest,")
    print(f"  {same:.2%} of {few.query.size:,} answers equal, accuracy {correct:.2%} (easyfsl {peer_accuracy:.2%})")
    if error > 1e-3 or same < 0.998 or abs(correct - peer_accuracy) > 0.002:
        raise SystemExit(f"evaluation: {DIFFERENT}")

    def ours() -> float:
        started = time.perf_counter()
        opened = MiniImageNet(args.data_dir).store("val")
        episodes = EpisodeSampler(opened.labels.numpy(), WAY, SHOT, QUERY, episodes=args.episodes)
        result = evaluate(learner, opened, episodes, normalize, hardware)
        seconds = time.perf_counter() - started
        first = result.accuracies[:tasks].mean()  # the episodes of above: an episode depends on seed and index
        each = f"{args.episodes:,} episodes in {seconds:.1f} s, {1e3 * seconds / args.episodes:.3g} ms each"
        print(f"  ours: {each}; accuracy of the first {tasks}: {first:.2%} (easyfsl {peer_accuracy:.2%})")
        if abs(first - peer_accuracy) > 0.01:
            raise SystemExit(f"evaluation: {DIFFERENT}")
        return args.episodes / seconds

    def theirs() -> float:
        speed = in_child(peer_evaluation, *setting, tasks)
        each = f"{tasks} episodes in {tasks / speed:.1f} s, {1e3 / speed:.3g} ms each"
        print(f"  easyfsl: {each}; {args.episodes:,} would take {args.episodes / speed:,.0f} s")
        return speed

    yield "evaluation / easyfsl evaluate", ours, theirs


def peer_evaluation(specs: str, device: str, tasks: int) -> float:
    dataset, model = easyfsl_parts(specs, device)
    sampler = task_sampler(dataset, tasks)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    started = time.perf_counter()
    peer("easyfsl.utils").evaluate(model, loader, device=device, use_tqdm=False)
    return tasks / (time.perf_counter() - started)


def peer_answers(specs: str, device: str, episodes: list, class_ids: list) -> tuple[np.ndarray, float]:
    """easyfsl's scores `[E, Q, way]`, classes in the order of `class_ids`, and its accuracy, on given episodes."""
    dataset, model = easyfsl_parts(specs, device)
    loader = DataLoader(dataset, batch_sampler=episodes, collate_fn=task_sampler(dataset, 1).episodic_collate_fn)
    scores = []
    with torch.no_grad():
        for (support, support_y, query, _, order), ids in zip(loader, class_ids, strict=True):
            model.process_support_set(support.to(device), support_y.to(device))
            scores.append(model(query.to(device)).cpu()[:, [order.index(c) for c in ids]].numpy())
    return np.stack(scores), peer("easyfsl.utils").evaluate(model, loader, device=device, use_tqdm=False)


def easyfsl_parts(specs: str, device: str) -> tuple[Any, torch.nn.Module]:
    """easyfsl's data set, reading the files as they are asked for, and its learner around our backbone."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize(MiniImageNet.mean, MiniImageNet.std)])
    dataset = peer("easyfsl.datasets").MiniImageNet("/", specs_file=io.StringIO(specs), transform=transform)
    return dataset, peer("easyfsl.methods").PrototypicalNetworks(conv4()).eval().to(device)


def training(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Optimiser steps of Prototypical Networks on random images in memory."""
    store, sampler, normalize = training_data()

    def build(hardware: Hardware) -> Training:
        learner = hardware.place(Prototypical(conv4()))
        adam, trainer = torch.optim.Adam(learner.parameters(), lr=0.001), Trainer(steps=ENDLESS)
        data = (store, sampler, normalize.to(hardware.device), Augment())
        return Training(learner, *data, adam, constant(), trainer, hardware)

    loss = build(Hardware(hardware.device, torch.float32)).advance()[0].item()
    peer_loss, _ = in_child(peer_training, str(hardware.device), 0.0)
    print(f"training: the same first step in float32: loss {loss:.5f} (learn2learn {peer_loss:.5f})")
    if abs(loss - peer_loss) > 1e-3 * peer_loss:
        raise SystemExit(f"training: {DIFFERENT}")
    ready = build(hardware)

    def step() -> int:
        ready.advance()[0].item()  # read as the example does; it waits for an accelerator
        return 1

    setting = (str(hardware.device), 3 * args.seconds)
    yield "training / learn2learn", lambda: rate(step, setting[1]), lambda: in_child(peer_training, *setting)[1]


def peer_training(device: str, seconds: float) -> tuple[float, float]:
    """Loss of the first step, and episodes a second, of the computation of learn2learn's example."""
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
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step(), rate(lambda: len([step()]), seconds)


def training_data() -> tuple[ImageStore, EpisodeSampler, Normalize]:
    """64 classes of 20 random images, endless episodes of them; the same in every process."""
    labels = torch.arange(64).repeat_interleave(20)
    images = torch.randint(256, (len(labels), 3, 84, 84), generator=torch.Generator().manual_seed(0)).byte()
    store = ImageStore(images, labels, ("",) * 64, ("",) * len(labels), None, (), "random", "train", "random")
    return store, EpisodeSampler(labels.numpy(), WAY, SHOT, QUERY, episodes=ENDLESS), Normalize([0.5] * 3, [0.25] * 3)


def propagation(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Label propagation on features in memory."""
    for row in CASES:
        if not compare(row, hardware):
            raise SystemExit(f"propagation: {DIFFERENT}")
        step, setting = our_step(row, hardware), (row, args.seconds)
        yield row, functools.partial(rate, step, args.seconds), functools.partial(in_child, peer_propagation, *setting)


def peer_propagation(row: str, seconds: float) -> float:
    return rate(peer_step(row), seconds)


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


def take(episodes: Iterator) -> int:
    return sum(1 for _ in itertools.islice(episodes, 32))


def peer(name: str) -> Any:
    """The peer's module, imported without its notices."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


def task_sampler(dataset: Any, tasks: int) -> Any:
    """easyfsl's sampler. It calls `Sampler.__init__(data_source=...)`, which torch no longer takes; here it may."""
    samplers = peer("easyfsl.samplers")
    with mock.patch.object(Sampler, "__init__", return_value=None):
        return samplers.TaskSampler(dataset, WAY, SHOT, QUERY, tasks)


child = functools.cache(lambda: ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))


def in_child(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)` in the peers' process."""
    return child().submit(function, *arguments).result()


def alternate(row: str, ours: Callable, theirs: Callable, repeats: int) -> tuple[dict[str, Any], list[str]]:
    """What the JSON says of a comparison, and its row of the table."""
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    a, b = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratios = [x / y for x, y in pairs]
    numbers = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in (a, b, a / b)]
    entry = {"row": row, "ours": a, "peer": b, "unit": "episodes/s", "ratio": a / b}
    return entry, [row, *numbers, f"{min(ratios):.3g} to {max(ratios):.3g}"]


HEADER = ["ours / peer", "ours, episodes/s", "peer, episodes/s", "ratio", "over repeats"]
ROWS = {"indices": indices, "evaluation": evaluation, "training": training, "propagation": propagation}
ALL = [*ROWS, "learners", "refresh", "losses"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ALL, default=ALL, help="what to measure; default: all")
    parser.add_argument("--data-dir", default="../shared/data", help="the folder that holds miniimagenet/")
    parser.add_argument("--episodes", type=int, default=10_000, help="episodes of our evaluation")
    parser.add_argument("--peer-episodes", type=int, default=20, help="episodes of the peer's evaluation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="that a rate is measured for (training: three times)")
    parser.add_argument("--json", type=Path, help="also write the rows here, as a list of objects")
    args = parser.parse_args(argv)

    hardware = Hardware.choose()
    peers = [name for name in ("easyfsl", "learn2learn") if util.find_spec(name)]
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "episodic", "scikit-learn", *peers)
    )
    print(f"{hardware.describe()} (peers: fp32)\nPython {platform.python_version()}, {versions}\n")

    results = []
    for name in [name for name in args.rows if name in ROWS]:
        try:
            for comparison in ROWS[name](args, hardware):
                results.append(alternate(*comparison, args.repeats))
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}: skipped from here on: {str(error).splitlines()[0]}")
    entries = [entry for entry, _ in results]
    if results:
        print("\n" + table(HEADER, [line for _, line in results]))
    if "learners" in args.rows:
        measured, lines = learners(args)
        entries += measured
        print("\n" + table(LEARNERS_HEADER, lines))
    for name, measure in (("refresh", refresh), ("losses", losses)):
        if name in args.rows:
            try:
                measured, text = measure(args)
                entries += measured
                print("\n" + text)
            except (ImportError, FileNotFoundError) as error:
                print(f"{name}: skipped: {str(error).splitlines()[0]}")
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
