"""What the rows of the benchmark share: processes for the peers, rates and costs, and the table of a comparison."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.utils.data import Sampler

from episodic import EpisodeIndices
from episodic.core.backbones.conv4 import Conv4
from episodic.run.device import Hardware

WAY, SHOT, QUERY = 5, 1, 15
ENDLESS = 10**9  # episodes
DIFFERENT = "our results differ from the peer's, so a ratio of speeds would mean nothing"
HEADER = ["ours / peer", "ours, episodes/s", "peer, episodes/s", "ratio", "target", "over repeats"]


class Comparison(NamedTuple):
    """A row of the table: its name, functions that measure our and the peer's episodes a second, and the ratio that we want."""

    row: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    target: float | None = None


def alternate(comparison: Comparison, repeats: int) -> tuple[dict[str, Any], list[str]]:
    """Measure both sides in turn; returns the entry of the JSON and the row of the table."""
    row, ours, theirs, target = comparison
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    a, b = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratios = [x / y for x, y in pairs]
    numbers = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in (a, b, a / b)]
    entry = {"row": row, "ours": a, "peer": b, "unit": "episodes/s", "ratio": a / b, "target": target}
    return entry, [row, *numbers, against(a / b, target), f"{min(ratios):.3g} to {max(ratios):.3g}"]


def against(ratio: float, target: float | None) -> str:
    """The target as the table shows it, with a mark where the ratio misses it."""
    if target is None:
        return "–"
    return f"{target:g}" if ratio >= target else f"{target:g}, missed"


def rate(step: Callable[[], int], seconds: float) -> float:
    """Episodes a second. `step` does some episodes and returns how many; it is called for `seconds`, after one call to warm up."""
    step()
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or done == 0:
        done += step()
    return done / elapsed


def take(episodes: Iterator) -> int:
    return sum(1 for _ in itertools.islice(episodes, 32))


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cost(step: Callable[[], Any], hardware: Hardware, repeats: int) -> tuple[Any, float, int]:
    """`(result of the first call of step, median seconds of repeats further calls, bytes taken beyond those held before)`."""
    before, times = hardware.peak_memory(), []
    result = step()
    for _ in range(repeats):
        synchronize(hardware)
        started = time.perf_counter()
        step()
        synchronize(hardware)
        times.append(time.perf_counter() - started)
    return result, statistics.median(times), hardware.peak_memory() - before


def synchronize(hardware: Hardware) -> None:
    if hardware.device.type == "cuda":
        torch.cuda.synchronize()


child = functools.cache(lambda: ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))


def in_child(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)` in the peers' process."""
    return child().submit(function, *arguments).result()


def alone(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)` in a new process, so that the most memory it takes is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def peer(name: str) -> Any:
    """The peer's module, imported without its notices."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


def task_sampler(dataset: Any, tasks: int) -> Any:
    """easyfsl's sampler. It calls `Sampler.__init__(data_source=...)`, which torch no longer allows, so that call is replaced."""
    samplers = peer("easyfsl.samplers")
    with mock.patch.object(Sampler, "__init__", return_value=None):
        return samplers.TaskSampler(dataset, WAY, SHOT, QUERY, tasks)


def conv4(channels: int = 3, size: int = 84) -> Conv4:
    """The same random weights in every process."""
    torch.manual_seed(0)
    return Conv4(channels, size)


def by_class(episodes: EpisodeIndices) -> np.ndarray:
    """Indices in the order of the peers' episodes, support then query of each class: `[E, way * (shot + query)]`."""
    roles = [role.reshape(len(episodes), episodes.n_way, -1) for role in (episodes.support, episodes.query)]
    return np.concatenate(roles, axis=2).reshape(len(episodes), -1)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference between two tensors, as a share of the largest entry of the second."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
