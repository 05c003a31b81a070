"""Show where the time of one training step goes: the rows `profile` of the benchmark.

The learner is Prototypical Networks with Conv4 on random images, on the processor, in our precision: 5-way 1-shot with 15 queries
of 84 x 84 pixels, and 60-way 1-shot with 5 queries of 28 x 28 (Omniglot).

Steps run plain, then under torch.profiler, then plain again; times are means over the quicker half of them. The profiler tells the
time of each operation without the operations that it calls. This time counts for the nearest stage around the operation. Stages are
ranges put around the parts of a step, the operations of layers, and the nodes of the backward pass. So the stages add up to the
profiled step; that they also add up to a plain one, within 15 %, is checked. Time that Python spends between operations counts for
the stage around it.

Convolutions are compared with the machine's limit, the quickest of a few large matrix products. Their floating-point operations
come from a formula: 2 x output numbers x kernel area x input channels for the outputs, as many for the gradient of the weights, and
as many for the gradient of the inputs in all layers but the first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as profiler

from benchmark.measuring import timed
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.episodes.sampler import EpisodeSampler
from episodic.evaluate.tables import table
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.train import episodes
from episodic.train.objective import Objective
from episodic.train.procedure import AbstractProcedure, Setup

# (way, query, channels, pixels a side), one shot
SETTINGS = {"84 x 84, 5-way": (5, 15, 3, 84), "28 x 28, 60-way": (60, 5, 1, 28)}
TOLERANCE = 0.15  # between the sum of the items and a plain step
MATRICES = (1024, 2048, 4096)  # rows of the square factors
KINDS = {
    "conv": "conv",
    "batch_norm": "norm",
    "max_pool": "pool",
    "relu": "ReLU",
    "batchnorm": "norm",
    "maxpool": "pool",
}
OUTSIDE = "Python between"
BACKWARD = "autograd::engine::evaluate_function: "
HEADER = ["part of a step", "ms", "share", "GFLOP/s", "of the limit"]


def profile(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, tables)` of all parts of a step."""
    hardware = Hardware.choose("cpu")
    limits = {str(dtype).removeprefix("torch."): product_rate(dtype) for dtype in (torch.bfloat16, torch.float32)}
    limit = limits[str(hardware.dtype).removeprefix("torch.")]
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in limits.items())
    entries = [{"row": f"profile, limit, {name}", "ours": rate, "unit": "FLOP/s"} for name, rate in limits.items()]
    texts = [f"The machine's limit, by matrix products: {rates}."]
    for setting, shape in SETTINGS.items():
        procedure = ready(*shape, hardware)
        parts, plain = step_parts(procedure, args.seconds)
        speeds = {f"{way}, conv": n / parts[f"{way}, conv"] for way, n in conv_flops(procedure).items()}
        more, text = describe(setting, parts, plain, speeds, limit)
        entries += more
        texts.append(text)
    return entries, "\n\n".join(texts)


def describe(
    setting: str, parts: dict[str, float], plain: float, speeds: dict[str, float], limit: float
) -> tuple[list[dict[str, Any]], str]:
    total = sum(parts.values())
    entries, lines = [], []
    for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        entry = {"row": f"profile, {setting}, {part}", "ours": seconds, "unit": "s", "share": seconds / total}
        speed = speeds.get(part)
        entries.append(entry | ({"flops": speed, "of_limit": speed / limit} if speed else {}))
        cells = [f"{speed / 1e9:,.0f}", f"{speed / limit:.0%}"] if speed else ["–", "–"]
        lines.append([part, f"{1e3 * seconds:.3f}", f"{seconds / total:.1%}", *cells])
    entries.append({"row": f"profile, {setting}, sum / plain step", "ours": total, "peer": plain, "unit": "s"})
    entries[-1]["ratio"] = plain / total
    apart = "" if abs(total / plain - 1) <= TOLERANCE else ": too far apart, so trust no share"
    largest = ", ".join(line[0] for line in lines[:3])
    verdict = f"The sum is {total / plain:.0%} of a step without the profiler, {1e3 * plain:.2f} ms{apart}."
    return entries, "\n".join([f"{setting}: largest are {largest}. {verdict}", table(HEADER, lines)])


def ready(way: int, query: int, channels: int, side: int, hardware: Hardware) -> episodes.EpisodicTraining:
    """Prototypical Networks in training on 64 classes of 20 random images, with ranges for the profiler around the parts."""
    labels = torch.arange(64).repeat_interleave(20)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(labels), channels, side, side), generator=generator).byte()
    store = ImageStore(images, labels, tuple(map(str, range(64))), (), None, (), "random", "train", "random")
    sampler = EpisodeSampler(labels.numpy(), way, 1, query, episodes=10**9)
    torch.manual_seed(0)
    learner = hardware.place(Prototypical(Conv4(channels, side)))
    learner.backbone.forward = ranged("forward, rest", learner.backbone.forward)
    sampler.batch = ranged("data", sampler.batch)
    normalize = Normalize([0.5] * channels, [0.25] * channels)
    normalize.forward = ranged("normalize", normalize.forward)
    objective = Objective()
    objective.of_episode = ranged("head and loss", objective.of_episode)
    setup = Setup(
        learner=learner,
        store=store,
        normalize=normalize,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=0.001),
        hardware=hardware,
        episodes=lambda count, per_step: sampler,
        objective=objective,
    )
    return episodes.EpisodicTraining(setup, steps=10**9)


def ranged(stage: str, work: Callable) -> Callable:
    def call(*arguments: Any, **options: Any) -> Any:
        with record_function(f"stage: {stage}"):
            return work(*arguments, **options)

    return call


@contextmanager
def ranges() -> Iterator[None]:
    """Put a range around the function that a step finds by its name in the module."""
    with mock.patch.object(episodes, "gather_episode", ranged("data", episodes.gather_episode)):
        yield


def step_parts(procedure: AbstractProcedure, seconds: float) -> tuple[dict[str, float], float]:
    """`(seconds of each part of a step, seconds of a plain step)`; measures for about `seconds` each."""
    with ranges():
        plain_steps(procedure, seconds / 4)  # to warm up
        before = plain_steps(procedure, seconds / 2)
        profiled = [parts_of(step) for step in profiled_steps(procedure, 2 * len(before))]
        after = plain_steps(procedure, seconds / 2)
    return quicker_half(profiled), quicker_half([Counter(step=each) for each in before + after])["step"]


def plain_steps(procedure: AbstractProcedure, seconds: float) -> list[float]:
    times = []
    while sum(times) < seconds or len(times) < 3:
        times.append(timed(procedure.training_step))
    return times


def profiled_steps(procedure: AbstractProcedure, count: int) -> list[FunctionEvent]:
    """The profiler's event of each of `count` steps, with all that a step called below it."""
    with profiler(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(count):
            with record_function(f"stage: {OUTSIDE}"):
                procedure.training_step()
    return [event for event in profiled.events() if event.name == f"stage: {OUTSIDE}"]


def stages(step: FunctionEvent) -> Iterator[tuple[FunctionEvent, str]]:
    """Every event of a step, with the stage that it counts for."""
    waiting = [(step, "")]
    while waiting:
        event, around = waiting.pop()
        stage = stage_of(event.name, around) or around
        yield event, stage
        waiting += [(child, stage) for child in event.cpu_children]


def parts_of(step: FunctionEvent) -> Counter:
    """Seconds of each stage of a step: each event counts without those below it."""
    parts: Counter = Counter()
    for event, stage in stages(step):
        parts[stage] += event.self_cpu_time_total / 1e6
    return parts


def quicker_half(steps: list[Counter]) -> dict[str, float]:
    """Means over the quicker half of the steps. They add up, and what else runs on the machine counts little."""
    kept = sorted(steps, key=lambda parts: parts.total())[: (len(steps) + 1) // 2]
    return {part: statistics.fmean(parts[part] for parts in kept) for part in sum(kept, Counter())}


def stage_of(operation: str, around: str) -> str | None:
    """The stage that begins with `operation` inside the stage `around`; None where it belongs to that one."""
    if operation.startswith("stage: "):
        return operation.removeprefix("stage: ")
    if operation.startswith("Optimizer."):
        return "optimizer"
    if operation.startswith(BACKWARD):
        return f"backward, {kind(operation.removeprefix(BACKWARD)) or 'rest'}"
    if around == "forward, rest" and (found := kind(operation)):
        return f"forward, {found}"
    return None


def kind(operation: str) -> str | None:
    """The kind of layer that an operation, or a node of the backward pass, belongs to."""
    return next((found for key, found in KINDS.items() if key in operation.lower()), None)


def conv_flops(procedure: AbstractProcedure) -> dict[str, int]:
    """Floating-point operations of the convolutions in the forward and in the backward pass of a step."""
    found = []

    def count(conv: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        found.append(2 * output.numel() * conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1])

    convs = [module for module in procedure.setup.learner.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_hook(count) for conv in convs]
    procedure.training_step()
    for hook in hooks:
        hook.remove()
    return {"forward": sum(found), "backward": 2 * sum(found) - found[0]}


def product_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of the quickest of a few square matrix products."""
    rates = []
    for n in MATRICES:
        a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
        for _ in range(3):
            started = time.perf_counter()
            a @ b
            rates.append(2 * n**3 / (time.perf_counter() - started))
    return max(rates)
