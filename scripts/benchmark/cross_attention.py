"""Time CAN's attention and losses beside the same formulas for each pair: the rows `cross_attention` of the benchmark.

The batch is the one that the paper trains on, 4 episodes of 5-way 1-shot with 6 queries a class. The maps are given and have the
shape that its ResNet-12 makes; the backbone is the same on both sides and left out. Measured is a forward and backward pass in
float32, each side in a process of its own. For each pair of a query and a class the peer makes the correlation map, both attended
maps, and the cosine at each position, as `CrossAttention` and `PairAttention` define them. A C library that keeps freed memory
speeds up the peer's large tensors, so a second row has it do so. Logits and gradients of both sides must agree to 1e-4 of the
largest entry.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from benchmark.measuring import DIFFERENT, against, alone, cost, relative_error
from episodic import Episode, Task
from episodic.evaluate.tables import table
from episodic.learners.cross_attention import CrossAttention
from episodic.run.device import Hardware

EPISODES, WAY, QUERY, N_CLASSES = 4, 5, 6, 64
MAP = (512, 6, 6)
TIME_TARGET, MEMORY_TARGET = 5, 2
HEADER = ["cross attention / pair by pair", "ours", "peer", "ratio", "target"]
Outcome = tuple[Tensor, Tensor]  # logits [E, Q, n_way], loss


def ours(learner: CrossAttention, episode: Episode) -> Outcome:
    prediction = learner.classify(episode.task)
    terms = sum(term(episode).mean() for term in prediction.auxiliary_losses.values())
    return prediction.logits, prediction.loss(episode).mean() + terms


def pair_by_pair(learner: CrossAttention, episode: Episode) -> Outcome:
    layers, y = learner.attention, episode.query_y.flatten()
    p, q = episode.task.support.flatten(3), episode.task.query.flatten(3)  # one shot: a class map is its item's
    correlation = normalize(p, dim=2).mT.unsqueeze(1) @ normalize(q, dim=2).unsqueeze(2)  # [E, Q, n_way, m, m]

    def attention(r: Tensor) -> Tensor:
        means = r.mean(3)
        hidden = layers.norm(layers.squeeze(means).flatten(0, 2)).relu()
        kernel = layers.excite(hidden).view_as(means)
        scores = (r * kernel.unsqueeze(3)).mean(4)
        return 1 + (scores / layers.temperature).softmax(3)

    classes = p.unsqueeze(1) * attention(correlation).unsqueeze(3)  # [E, Q, n_way, C, m]
    queries = q.unsqueeze(2) * attention(correlation.mT).unsqueeze(3)
    prototypes = normalize(classes.mean(4), dim=3)
    logits = learner.scale * (prototypes * normalize(queries.mean(4), dim=3)).sum(3)
    at_positions = learner.scale * (prototypes.unsqueeze(4) * normalize(queries, dim=3)).sum(3)  # [E, Q, n_way, m]
    own = queries.flatten(0, 1)[torch.arange(len(y)), y]  # [E * Q, C, m]
    in_all = learner.classifier(own.mT).mT  # [E * Q, classes, m]
    labels = episode.class_ids.gather(1, episode.query_y).flatten()
    positions = (-1, own.shape[2])
    nearest = cross_entropy(at_positions.flatten(0, 1), y.unsqueeze(1).expand(positions))
    return logits, learner.nearest_weight * nearest + cross_entropy(in_all, labels.unsqueeze(1).expand(positions))


def cross_attention(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, table)` of time and memory."""
    device = Hardware.choose().device
    sides = ((ours, True), (pair_by_pair, False), (pair_by_pair, True))
    a, b, keeping = (alone(measure, answer, device, keep, args.repeats) for answer, keep in sides)
    logits = relative_error(a["logits"], b["logits"])
    gradients = max(relative_error(x, y) for x, y in zip(a["gradients"], b["gradients"], strict=True))
    print(f"cross_attention: logits differ by at most {logits:.0e} of the largest, gradients by {gradients:.0e}")
    if max(logits, gradients) > 1e-4:
        raise SystemExit(f"cross_attention: {DIFFERENT}")
    rows = (
        ("forward + backward", "seconds", b, "ms", 1e-3, TIME_TARGET),
        ("the same, peer keeps freed memory", "seconds", keeping, "ms", 1e-3, None),
        ("memory", "bytes", b, "MiB", 2**20, MEMORY_TARGET),
    )
    entries, lines = [], []
    for row, what, theirs, unit, scale, target in rows:
        values, ratio = (a[what] / scale, theirs[what] / scale), theirs[what] / a[what]
        entry = {"row": f"cross attention, {row}", "ours": values[0], "peer": values[1], "unit": unit}
        entries.append(entry | {"ratio": ratio, "target": target})
        lines.append([row, *(f"{value:.3g} {unit}" for value in values), f"{ratio:.3g}", against(ratio, target)])
    return entries, table(HEADER, lines)


def measure(
    answer: Callable[[CrossAttention, Episode], Outcome], device: torch.device, keep: bool, repeats: int
) -> dict[str, Any]:
    """Seconds and bytes of a forward and backward pass; logits; gradients for the maps and for each parameter.

    `keep` has the C library keep freed memory, as `Hardware.choose` does on a CPU.
    """
    hardware = Hardware.choose(str(device), "fp32") if keep else Hardware(device, torch.float32)
    learner, episode = setting(hardware)
    inputs = [episode.task.support, episode.task.query, *(p for p in learner.parameters() if p.requires_grad)]

    def step() -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, loss = answer(learner, episode)
        return logits.detach(), torch.autograd.grad(loss, inputs)

    (logits, gradients), seconds, taken = cost(step, hardware, 3 * repeats)
    return {"seconds": seconds, "bytes": taken, "logits": logits.cpu(), "gradients": [g.cpu() for g in gradients]}


def setting(hardware: Hardware) -> tuple[CrossAttention, Episode]:
    """The same learner and maps in every process."""
    torch.manual_seed(0)
    backbone = nn.Identity()
    backbone.shape = MAP
    learner = CrossAttention(backbone, N_CLASSES).to(hardware.device).train()
    learner.attention.squeeze.bias.requires_grad_(False)  # batch norm undoes it: its gradient is rounding

    def maps(n: int) -> Tensor:
        return torch.randn(EPISODES, n, *MAP).relu().to(hardware.device).requires_grad_()

    y = torch.arange(WAY).repeat(EPISODES, 1)
    class_ids = torch.stack([torch.randperm(N_CLASSES)[:WAY] for _ in range(EPISODES)])
    episode = Episode(Task(maps(WAY), y, maps(WAY * QUERY), WAY), y.repeat_interleave(QUERY, dim=1), class_ids)
    return learner, episode.to(hardware.device)
