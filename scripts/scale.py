"""Measure what several processes gain and what they cost: two processes of one thread against one process of one and of two
threads, for a step of training, embedding and evaluation; what a step communicates; and by a model what that costs with more.

    python scripts/scale.py [--rounds 5] [--out FILE]

Images are random, 3 x 84 x 84. Each measurement is the median over `--rounds` rounds, in which one and two processes take turns.
`sync_batch_norm=false` is measured too. What sharing costs is the time of a step of two processes, less that of two processes that
train alone on a share each: communication, waiting for each other, and the passes that batch norm of all takes more. The model
counts the exchanges of a step, each as a ring would do it with N processes, from a latency and a bandwidth:

    sum (all-reduce) of B bytes:   2 (N - 1) (latency + B / (N bandwidth))
    gathering b bytes of each:       (N - 1) (latency + b / bandwidth)

Latency and bandwidth are measured here between two processes, and assumed for two networks. The computation of a process stays the
same, as where each process brings its own episodes to the step; the efficiency is its share of the time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed

from episodic.core.backbones.conv4 import Conv4
from episodic.core.backbones.resnet12 import ResNet12
from episodic.data.augment import Augment, Normalize
from episodic.data.store import ImageStore
from episodic.episodes.sampler import EpisodeSampler
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import table
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.run.distributed import is_first, joined, processes
from episodic.run.embed import embeddings_of
from episodic.train.episodes import EpisodicTraining
from episodic.train.procedure import Setup

CASES = {  # backbone, episodes a step, queries a class; all are 5-way 1-shot
    "Conv4": (lambda: Conv4(3, 84), 4, 15),
    "ResNet-12": (lambda: ResNet12(3, 84), 2, 5),
}
# Assumed: seconds until a message arrives, and bytes a second; usual figures of such networks.
NETWORKS = {"10 Gbit/s Ethernet": (50e-6, 1.25e9), "200 Gbit/s InfiniBand": (5e-6, 25e9)}
COUNTS = (2, 8, 64)


@dataclasses.dataclass
class Traffic:
    """The exchanges of a step beside the gradients: for each its kind and its bytes."""

    exchanges: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    def counted(self, kind: str, function: Callable) -> Callable:
        """`function`, which exchanges tensors, with a note of each call."""

        def call(*arguments, **settings):
            mine = arguments[1] if kind == "gather" else arguments[0]
            self.exchanges.append((kind, mine.numel() * mine.element_size()))
            return function(*arguments, **settings)

        return call


def training(name: str, share: int = 1, sync: bool = True) -> EpisodicTraining:
    """The training of a case; `share`: as if that many processes trained it, each alone on its part. `sync`: batch norm."""
    backbone, episodes, queries = CASES[name]
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1920, 3, 84, 84), dtype=torch.uint8)
    labels = torch.arange(1920) // 30
    names = tuple(map(str, range(64)))
    store = ImageStore(images, labels, names, tuple(map(str, range(1920))), None, (), "random", "train", "ours")
    hardware = Hardware.choose("cpu")
    setup = Setup(
        learner=hardware.place(Prototypical(backbone())),
        store=store,
        normalize=Normalize([0.5] * 3, [0.25] * 3),
        optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-3),
        hardware=hardware,
        episodes=lambda n, each: EpisodeSampler(labels, 5, 1, queries, episodes=n, episodes_per_batch=each),
        augment=Augment(8, True),
        sync_batch_norm=sync,
    )
    return EpisodicTraining(setup, steps=10_000, episodes_per_step=episodes // share)


def seconds(function: Callable, at_least: float = 2.0) -> float:
    """The seconds of a call: a mean over calls for some seconds, after some to warm up. All processes make the same number."""
    for _ in range(4):  # the memory of the process still grows
        function()
    began = time.perf_counter()
    function()
    count = max(1, round(at_least / (time.perf_counter() - began)))
    if processes() > 1:
        shared = torch.tensor(count)
        distributed.broadcast(shared, src=0)
        count = int(shared)
        distributed.barrier()
    began = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - began) / count


def measured(alone: bool) -> dict[str, float]:
    """What this process measures, together with the others; `alone`: as one of two that do not know of each other."""
    found = {}
    for name in CASES:
        found[f"step, {name}"] = seconds(training(name, 2 if alone else 1).training_step)
        if not alone:
            found[f"step, {name}, sync_batch_norm=false"] = seconds(training(name, sync=False).training_step)
    if alone:
        return found
    learner, setup = (fresh := training("Conv4")).setup.learner, fresh.setup
    hardware = Hardware.choose("cpu")
    found["embedding of 1,920 images, Conv4"] = seconds(
        lambda: embeddings_of(learner, setup.store, setup.normalize, hardware)
    )
    few = dataclasses.replace(setup.store, images=setup.store.images[:600], labels=setup.store.labels[:600],
                              item_names=setup.store.item_names[:600])  # fmt: skip
    episodes = EpisodeSampler(few.labels, 5, 5, 15, episodes=10_000)
    found["10,000 episodes of 600 images, Conv4"] = seconds(
        lambda: evaluate(learner, few, episodes, setup.normalize, hardware)
    )
    x, y = torch.randn(20_000, 512), torch.arange(20_000) // 20
    found["retrieval of 20,000 x 512"] = seconds(lambda: retrieval(x, y))
    found["peak memory, GiB"] = hardware.peak_memory() / 2**30
    if processes() > 1:
        found |= exchanged()
    return found


def exchanged() -> dict[str, float]:
    """Bytes and number of the exchanges of a step, and the latency and bandwidth between the processes."""
    found: dict[str, float] = {}
    for name in CASES:
        case, traffic = training(name), Traffic()
        case.training_step()
        plain = distributed.all_reduce, distributed.all_gather
        distributed.all_reduce, distributed.all_gather = (
            traffic.counted(kind, function) for kind, function in zip(("sum", "gather"), plain, strict=True)
        )
        case.training_step()
        distributed.all_reduce, distributed.all_gather = plain
        parameters = sum(4 * p.numel() for p in case.setup.learner.learned_parameters())
        found[f"gradient bytes, {name}"] = parameters
        found[f"parameters, {name}"] = len(case.setup.learner.learned_parameters())
        for kind in ("sum", "gather"):
            sizes = [size for of, size in traffic.exchanges if of == kind]
            found |= {f"{kind}s, {name}": len(sizes), f"{kind} bytes, {name}": sum(sizes)}
    small, large = torch.zeros(1), torch.zeros(2**24)
    found["latency"] = seconds(lambda: distributed.all_reduce(small), 0.5) / 2  # there and back
    found["bandwidth"] = 4 * 2**24 / seconds(lambda: distributed.all_reduce(large), 2.0)
    return found


def modeled(found: dict[str, float], name: str, count: int, latency: float, bandwidth: float) -> float:
    """The seconds that the exchanges of a step of a case take with `count` processes."""
    sums = found[f"sums, {name}"] + 2  # and the gradients, with a note of which were used
    size = found[f"sum bytes, {name}"] + found[f"gradient bytes, {name}"] + 4 * found[f"parameters, {name}"]
    reduced = 2 * (count - 1) * (sums * latency + size / (count * bandwidth))
    return reduced + (count - 1) * (found[f"gathers, {name}"] * latency + found[f"gather bytes, {name}"] / bandwidth)


def launched(count: int, threads: int, alone: bool = False) -> dict[str, float]:
    """The measurements of a new command with `count` processes of some threads each."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "found.json"
        start = [sys.executable] if alone or count == 1 else [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))]  # fmt: skip
        command = [*start, __file__, "--measure", str(file), *["--alone"] * alone]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        workers = [subprocess.Popen([*command, f"--number={n}"], env=environment) for n in range(count if alone else 1)]
        if any([worker.wait() for worker in workers]):
            raise SystemExit("a process failed")
        return json.loads(file.read_text())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    for hidden in ("--measure", "--number"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure:
        with joined():
            found = measured(given.alone)
            if is_first() and given.number == "0":
                Path(given.measure).write_text(json.dumps(found))
        return
    kinds = {
        "1 process, 1 thread": (1, 1),
        "1 process, 2 threads": (1, 2),
        "2 processes": (2, 1),
        "2 alone": (2, 1, True),
    }
    rounds = [{kind: launched(*settings) for kind, settings in kinds.items()} for _ in range(given.rounds)]
    found = {
        kind: {key: statistics.median(each[kind][key] for each in rounds) for key in rounds[0][kind]} for kind in kinds
    }
    print(told(*found.values()))
    if given.out:
        record = {**found, "rounds": given.rounds, "hardware": processor(), "torch": torch.__version__}
        given.out.write_text(json.dumps(record, indent=2) + "\n")


def told(single: dict[str, float], one: dict[str, float], two: dict[str, float], apart: dict[str, float]) -> str:
    """All tables: of one process with one thread and with two, of two processes, and of two that train alone."""
    works = [key for key in one if key != "peak memory, GiB"]
    rows = [
        [
            key,
            *(f"{1e3 * of[key]:,.0f}" for of in (single, one, two)),
            *(f"{of[key] / two[key]:.2f}" for of in (single, one)),
        ]
        for key in works
    ]
    heads = ["work: ms", "1 process, 1 thread", "2 threads", "2 processes", "gain over 1 thread", "over 2 threads"]
    text = [table(heads, rows)]
    text.append(
        f"{processor()}, torch {torch.__version__}; peak memory {one['peak memory, GiB']:.2f} GiB of one process, "
        f"{two['peak memory, GiB']:.2f} GiB of each of two; latency {1e6 * two['latency']:.0f} us, "
        f"bandwidth {two['bandwidth'] / 1e9:.2f} GB/s between them"
    )
    rows = []
    for name in CASES:
        step = f"step, {name}"
        exchanged_bytes = sum(two[f"{kind}, {name}"] for kind in ("gradient bytes", "sum bytes", "gather bytes"))
        exchanges = two[f"sums, {name}"] + two[f"gathers, {name}"] + 2
        cost = 1e3 * (two[step] - apart[step])
        model = 1e3 * modeled(two, name, 2, two["latency"], two["bandwidth"])
        rows.append(
            [
                name,
                f"{exchanged_bytes / 1e6:.2f}",
                f"{exchanges:.0f}",
                f"{1e3 * two[step]:,.0f}",
                f"{cost:.1f}",
                f"{model:.1f}",
            ]
        )
    text.append(table(["a step of 2", "MB", "exchanges", "ms", "of these for sharing", "exchanges by the model"], rows))
    rows = []
    for name in CASES:
        for network, (latency, bandwidth) in {"this machine": (two["latency"], two["bandwidth"]), **NETWORKS}.items():
            cells = []
            for count in COUNTS:
                cost = modeled(two, name, count, latency, bandwidth)
                share = apart[f"step, {name}"] / (apart[f"step, {name}"] + cost)
                cells.append(f"{1e3 * cost:.1f} ms, {100 * share:.0f} %")
            rows.append([name, network, *cells])
    text.append(table(["model", "between processes", *(f"{count} processes" for count in COUNTS)], rows))
    return "\n\n".join(text)


def processor() -> str:
    """The name of the processor."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    flags = Path("/proc/cpuinfo").read_text()
    return f"{names[0]}{', AMX' if 'amx_bf16' in flags else ''}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main(sys.argv[1:])
