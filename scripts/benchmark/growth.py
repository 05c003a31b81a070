"""Show how time grows with the work: the rows `growth` of the benchmark. Each curve ends with a fitted exponent.

- `sampler`: drawing episodes from 64 classes of 600 labels, block by block.
- `evaluation`: Prototypical Networks on cached features of 64 numbers. The backbone only flattens its images, so that embedding,
  which does not grow with the episodes, takes next to nothing; its seconds are told separately.
- `store`: one gather of 256 episodes from a memory-mapped store of more and more images. They have just been written and so are in
  the page cache. Told too is by how much the anonymous memory of a fresh process grows from opening the store to its last
  episode; the images themselves are never in it.
- `ways, sampler`, `ways, logits`: drawing 256 episodes, and classifying 16 episodes, of more and more classes. The queries grow
  with the classes, so the logits grow with their square.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.measuring import alone, timed
from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.episodes.sampler import BLOCK, EpisodeSampler
from episodic.episodes.task import Task, gather_episode
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import table
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.run.embed import embed

DRAWN = (100, 1_000, 10_000, 100_000, 1_000_000)
SCORED = (1_000, 3_000, 10_000, 30_000, 100_000)
STORED = (1_000, 10_000, 100_000, 1_000_000)
WAYS = (5, 10, 20, 50, 100, 200)
ENOUGH = 0.5  # seconds that one size is measured for
PER_CLASS = 100  # items of a class in a store
SIDE = 28
HEADER = ["growth", "size", "ms", "exponent", "beside it"]

Curve = dict[int, tuple[float, dict[str, float]]]  # size -> (seconds, other measurements by name)


def growth(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, table)` of all sizes and exponents. A `target` is a tenth above the exponent of the method."""
    hardware = Hardware.choose()
    curves = {
        "sampler": (drawing(), 1.1),
        "evaluation": (evaluation(hardware), 1.1),
        "store": (storage(3 * args.repeats), None),
        "ways, sampler": (drawing_ways(), None),
        "ways, logits": (logits(hardware), 2.2),
    }
    entries, lines = [], []
    for name, (curve, target) in curves.items():
        for size, (seconds, beside) in curve.items():
            entries.append({"row": f"growth, {name}", "size": size, "ours": seconds, "unit": "s"} | beside)
            noted = ", ".join(f"{key} {value:.3g}" for key, value in beside.items())
            lines.append([name, f"{size:,}", f"{1e3 * seconds:.4g}", "", noted])
        if len(curve) > 1:
            power = exponent(list(curve), [seconds for seconds, _ in curve.values()])
            wanted = {"target": target} if target else {}
            entries.append({"row": f"growth, {name}, exponent", "ours": power, "unit": "exponent"} | wanted)
            lines[-1][3] = f"{power:.2f}"
    return entries, table(HEADER, lines)


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The p of `seconds ~ size^p`, by least squares over the upper half of the sizes, where fixed costs count little."""
    upper = slice(min(len(sizes) // 2, len(sizes) - 2), None)
    return float(np.polyfit(np.log(sizes[upper]), np.log(seconds[upper]), 1)[0])


def drawing() -> Curve:
    labels = np.repeat(np.arange(64), 600)

    def draw(episodes: int) -> None:
        sampler = EpisodeSampler(labels, episodes=episodes)
        for block in range(-(-episodes // BLOCK)):
            sampler.block(block)

    return {size: (median(lambda: draw(size)), {}) for size in DRAWN}  # noqa: B023


def drawing_ways() -> Curve:
    labels, blocks = np.repeat(np.arange(max(WAYS)), 600), itertools.count()
    samplers = {way: EpisodeSampler(labels, way) for way in WAYS}
    return {
        way: (median(lambda: sampler.block(next(blocks))), {})  # noqa: B023
        for way, sampler in samplers.items()
    }


def evaluation(hardware: Hardware) -> Curve:
    store, normalize = random_store(64, side=8), Normalize([0.5], [0.25]).to(hardware.device)
    learner = Prototypical(nn.Flatten())
    embedding = median(lambda: synchronized(embed(learner.backbone, store, normalize, hardware)))

    def score(episodes: int) -> None:
        evaluate(learner, store, EpisodeSampler(store.labels.numpy(), episodes=episodes), normalize, hardware)

    return {size: (median(lambda: score(size)), {"embedding_s": embedding}) for size in SCORED}  # noqa: B023


def storage(repeats: int) -> Curve:
    curve = {}
    for items in STORED:
        with tempfile.TemporaryDirectory() as folder:
            if shutil.disk_usage(folder).free < 2 * items * SIDE**2:
                print(f"growth: no disk for a store of {items:,} images")
                continue
            path = Path(folder) / "images.npy"
            write_images(path, items)
            curve[items] = alone(gathering, path, repeats)
    return curve


def write_images(path: Path, items: int) -> None:
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(items, 1, SIDE, SIDE))
    random = np.random.default_rng(0)
    for rows in np.split(images, range(2**14, items, 2**14)):
        rows[:] = np.frombuffer(random.bytes(rows.size), np.uint8).reshape(rows.shape)
    images.flush()  # now, so that the system does not write them while we measure


def gathering(path: Path, repeats: int) -> tuple[float, dict[str, float]]:
    """Seconds of 256 episodes from the images at `path`, and MiB of anonymous memory that the store and the episodes took."""
    hardware = Hardware.choose("cpu")
    before = anonymous_memory()
    images = torch.from_numpy(np.load(path, mmap_mode="c"))
    store = store_of(images, len(images) // PER_CLASS)
    sampler, times = EpisodeSampler(store.labels.numpy()), []
    for number in range(repeats + 1):
        indices = sampler.block(number)
        times.append(timed(lambda: gather_episode(indices, store.gather, hardware.device)))  # noqa: B023
    after = anonymous_memory()
    return statistics.median(times[1:]), {} if after is None else {"anonymous_mib": (after - before) / 2**20}


def anonymous_memory() -> int | None:
    """Bytes of this process that belong to no file; None where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"^RssAnon:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.is_file() else None
    return 1024 * int(found[1]) if found else None


def logits(hardware: Hardware) -> Curve:
    learner = Prototypical(nn.Flatten())
    tasks = {way: random_task(way, hardware) for way in WAYS}
    return {
        way: (median(lambda: synchronized(learner.classify(task).logits)), {})  # noqa: B023
        for way, task in tasks.items()
    }


def random_task(way: int, hardware: Hardware, episodes: int = 16, query: int = 15) -> Task:
    support, queries = (torch.randn(episodes, n, 64, device=hardware.device) for n in (way, way * query))
    return Task(support, torch.arange(way, device=hardware.device).expand(episodes, -1), queries, way)


def random_store(n_classes: int, side: int) -> ImageStore:
    images = torch.randint(256, (n_classes * PER_CLASS, 1, side, side), generator=torch.Generator().manual_seed(0))
    return store_of(images.byte(), n_classes)


def store_of(images: torch.Tensor, n_classes: int) -> ImageStore:
    labels = torch.arange(n_classes).repeat_interleave(PER_CLASS)
    return ImageStore(images, labels, tuple(map(str, range(n_classes))), (), None, (), "random", "val", "random")


def median(work: Callable[[], Any]) -> float:
    """Median seconds of as many calls as fit in `ENOUGH` seconds. The first one counts only where there is no other."""
    times = [timed(work)]
    while sum(times) < ENOUGH:
        times.append(timed(work))
    return statistics.median(times[1:] or times)


def synchronized(result: torch.Tensor) -> torch.Tensor:
    if result.is_cuda:
        torch.cuda.synchronize()
    return result
