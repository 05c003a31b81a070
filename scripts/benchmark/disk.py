"""Time the way from JPEG files to the first episode that a network can train on: the rows `disk` of the benchmark.

The images are miniImageNet's validation images. Their files are in the system's page cache, and the image cache starts empty.

- First start: list the files, decode them into the store, bring one episode to the device. Beside it stands the decoder's limit:
  Pillow decodes the same files into an array on as many threads and does nothing else. Ours should take at most 1.3 times as long.
  Forked processes do not queue for one interpreter, so Pillow is faster in them, but not every system has them: that row has no
  target.
- Second start: a fresh process that finds the store. It should take less than a second beyond Python's imports.
- An episode: from the store, and with its files decoded one after the other, as a folder of images is usually read; and the
  number of episodes after which our first start has paid for itself.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmark.measuring import timed
from episodic.data.augment import Normalize
from episodic.data.cache import ImageFile, files_stamp
from episodic.data.sets.miniimagenet import MiniImageNet
from episodic.data.store import ImageStore, Listing
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler
from episodic.episodes.task import gather_episode
from episodic.run.device import Hardware

OVERHEAD = 1.3  # times the decoder's limit that the first start may take
SECOND = 1.0  # seconds that the second start may take
EPISODES = 20  # that the seconds of one are the median of
HEADER = ["miniImageNet, {:,} files", "ours, s", "peer, s", "ratio", "target, s"]
STAGES = ["of the first start", "s"]


def disk(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, tables)` of each start and of an episode. A `target` is in seconds and should not be exceeded."""
    dataset, hardware = MiniImageNet(args.data_dir), Hardware.choose()
    listing = dataset.listing("val")
    if listing.items[0][1] is not None:
        raise FileNotFoundError("the comparison needs miniImageNet as image files")
    paths = [path for path, _ in listing.items]
    decoded = np.zeros((len(paths), dataset.image_size, dataset.image_size, dataset.channels), np.uint8)
    decode_all(paths, decoded)  # reads the files, so that they are in the page cache for both sides
    pairs = []
    for _ in range(args.repeats):
        with empty_cache():
            took = first_start(args.data_dir)
        pairs.append(
            (took, timed(lambda: decode_all(paths, decoded)), timed(lambda: decode_in_processes(paths, decoded)))
        )
    first, limit, in_processes = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    with empty_cache():
        store = dataset.store("val")
        starts = [fresh_process(args.data_dir) for _ in range(args.repeats)]
        own, whole = (statistics.median(seconds) for seconds in zip(*starts, strict=True))
        episode, peer_episode = episodes(store, paths, Normalize(dataset.mean, dataset.std), hardware)
    rows = {
        "first start / decoder's limit": (first, limit, OVERHEAD * limit),
        "first start / decoded in processes": (first, in_processes, None),
        "second start": (own, None, SECOND),
        "second start, with imports": (whole, None, None),
        "an episode / from its files": (episode, peer_episode, None),
    }
    entries = [row(name, *values) for name, values in rows.items()]
    paid = first / (peer_episode - episode)
    entries.append({"row": "disk, episodes that pay for the first start", "ours": paid, "unit": "episodes"})
    lines = [[name, *(f"{x:.3g}" if x else "–" for x in (a, b, b and b / a, t))] for name, (a, b, t) in rows.items()]
    spent = [[stage, f"{seconds:.3f}"] for stage, seconds in stages(dataset, listing, paths).items()]
    return entries, "\n\n".join(
        [
            table([HEADER[0].format(len(paths)), *HEADER[1:]], lines),
            table(STAGES, spent),
            f"The first start has paid for itself after {paid:.0f} episodes.",
        ]
    )


def row(name: str, ours: float, peer: float | None, target: float | None) -> dict[str, Any]:
    compared = {"peer": peer, "ratio": peer / ours} if peer else {}
    return {"row": f"disk, {name}", "ours": ours, "unit": "s"} | compared | ({"target": target} if target else {})


@contextlib.contextmanager
def empty_cache() -> Iterator[Path]:
    """Use a temporary folder as image cache, here and in child processes."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, EPISODIC_CACHE=folder):
        yield Path(folder)


def first_episode(store: ImageStore, normalize: Normalize, hardware: Hardware) -> torch.Tensor:
    sampler = EpisodeSampler(store.labels.numpy(), episodes=1)
    images = from_store(store, sampler[0], normalize, hardware)
    if hardware.device.type == "cuda":
        torch.cuda.synchronize()
    return images


def first_start(data_dir: str) -> float:
    """Seconds from files, or from the store where the cache has it, to the first episode."""
    started = time.perf_counter()
    dataset, hardware = MiniImageNet(data_dir), Hardware.choose()
    first_episode(dataset.store("val"), Normalize(dataset.mean, dataset.std), hardware)
    return time.perf_counter() - started


def fresh_process(data_dir: str) -> tuple[float, float]:
    """Seconds of `first_start` in a new process: without, and with, the start of Python and its imports."""
    command = [sys.executable, "-c", f"from benchmark.disk import first_start; print(first_start({str(data_dir)!r}))"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout), time.perf_counter() - started


def decode_all(paths: Sequence[Path], out: np.ndarray) -> None:
    """Decode every file by Pillow into `out [N, H, W, C]`, on all cores."""
    chunks = [range(i, min(i + 64, len(paths))) for i in range(0, len(paths), 64)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda rows: decode_rows(paths, out, rows), chunks))


def decode_in_processes(paths: Sequence[Path], out: np.ndarray) -> None:
    """The same work in one process for each core. The pixels are not brought back."""
    context, n = multiprocessing.get_context("fork"), os.cpu_count()
    children = [context.Process(target=decode_rows, args=(paths, out, range(i, len(paths), n))) for i in range(n)]
    for child in children:
        child.start()
    for child in children:
        child.join()


def decode_rows(paths: Sequence[Path], out: np.ndarray, rows: range) -> None:
    for i in rows:
        out[i] = decode(paths[i])


def decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def episodes(store: ImageStore, paths: Sequence[Path], normalize: Normalize, hardware: Hardware) -> tuple[float, float]:
    """Median seconds of an episode: from the store, and with its files decoded; both on the same few episodes."""
    normalize = normalize.to(hardware.device)
    sampler = EpisodeSampler(store.labels.numpy(), episodes=EPISODES)
    ours, theirs = [], []
    for i in range(EPISODES):
        ours.append(timed(lambda: from_store(store, sampler[i], normalize, hardware)))  # noqa: B023
        theirs.append(timed(lambda: from_files(paths, sampler[i], normalize, hardware)))  # noqa: B023
    return statistics.median(ours), statistics.median(theirs)


def from_store(store: ImageStore, indices: EpisodeIndices, normalize: Normalize, hardware: Hardware) -> torch.Tensor:
    """Images `[S + Q, C, H, W]` of one episode, ready for the network."""
    task = gather_episode(indices, store.gather, hardware.device).task.map(normalize.to(hardware.device))
    return torch.cat([task.support, task.query], dim=1)[0]


def from_files(
    paths: Sequence[Path], indices: EpisodeIndices, normalize: Normalize, hardware: Hardware
) -> torch.Tensor:
    """The same images, with the files decoded one after the other, as data sets over a folder of images do."""
    images = np.stack([decode(paths[i]) for i in indices.flat()])
    return normalize(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(hardware.device))


def stages(dataset: MiniImageNet, listing: Listing, paths: Sequence[Path]) -> dict[str, float]:
    """Seconds of each thing that a first start does before its first episode."""
    shape = (len(paths), dataset.channels, dataset.image_size, dataset.image_size)
    with tempfile.TemporaryFile() as file:
        images = ImageFile(file, shape)
        return {
            "listing": timed(lambda: dataset.listing("val")),
            "- of it sizes and times of the files": timed(lambda: files_stamp(paths)),
            "decoding into the file": timed(lambda: dataset.render(listing, images)),
            "bringing it to the disk": timed(lambda: os.fsync(file.fileno())),
        }


def table(header: list[str], lines: list[list[str]]) -> str:
    from episodic.evaluate.tables import table  # not at the top: a fresh process should import only what a start needs

    return table(header, lines)
