"""Time a forward and a backward pass of each learner: the rows `learners` of the benchmark. There is no peer.

Each learner gets the miniImageNet episode of its paper (random images, random weights, in our precision) in a process of its own.
Told are its time, and the most memory that it takes beyond what the process had before.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch

from benchmark.measuring import alone, cost
from episodic import Episode, Task
from episodic.config.compose import compose_config
from episodic.config.instantiate import make
from episodic.evaluate.tables import table
from episodic.run.device import Hardware
from episodic.train.objective import Objective

HEADER = ["learner", "episodes", "images", "forward + backward, ms", "peak memory, MiB"]

# The training episode that the paper of each learner has for miniImageNet.
PAPERS = {
    "prototypical": "30-way 1-shot 15-query",
    "matching": "5-way 1-shot 15-query",
    "matching learner.full_context=true": "5-way 1-shot 15-query",
    "cross_attention backbone=resnet12 backbone.variant=can": "4 x 5-way 1-shot 6-query",
    "relation backbone.pools=2 backbone.unpadded=2": "5-way 1-shot 15-query",
    "tpn": "5-way 1-shot 15-query",
    "base_classifier": "64-way 1-shot 3-query",
    "attention_attractor": "5-way 5-shot 5-query",
    "attention_attractor learner.fast=mlp": "5-way 5-shot 5-query",
    "maml backbone.widths=[32,32,32,32]": "4 x 5-way 1-shot 15-query",
    "anil backbone.widths=[32,32,32,32]": "4 x 5-way 1-shot 15-query",
}


def learners(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, table)` of all learners."""
    entries, lines = [], []
    for options, shape in PAPERS.items():
        try:
            seconds, images, peak = alone(learner_step, options, shape, args.repeats)
        except ImportError as error:
            print(f"{options}: skipped: {str(error).splitlines()[0]}")
            continue
        mib = peak / 2**20
        row = f"forward + backward, {options}"
        entries.append({"row": row, "ours": seconds, "unit": "s", "episode": shape, "peak_mib": mib})
        lines.append([options, shape, f"{images}", f"{1e3 * seconds:.0f}", f"{mib:,.0f}"])
    return entries, table(HEADER, lines)


def learner_step(options: str, shape: str, repeats: int) -> tuple[float, int, int]:
    """`(median seconds, images, bytes taken beyond those held before)` of one forward and backward pass."""
    hardware = Hardware.choose()
    *_, first = shape.split(" x ")
    episodes = int(shape.split(" x ")[0]) if " x " in shape else 1
    way, shot, query = (int(part.split("-")[0]) for part in first.split())
    chosen = [f"learner={options}".split(), [f"task.n_way={way}", f"task.n_shot={shot}", "task.train_classes=64"]]
    cfg = compose_config("train", ["task=miniimagenet_5w1s", *itertools.chain(*chosen)])
    torch.manual_seed(0)
    learner = hardware.place(make(cfg.learner, backbone=make(cfg.backbone))).train()
    y = torch.arange(way).repeat(episodes, 1)
    draw = lambda n: torch.randn(episodes, n, 3, 84, 84)  # noqa: E731
    support_y, query_y = y.repeat_interleave(shot, dim=1), y.repeat_interleave(query, dim=1)
    base = 0
    if "attractor" in options:  # it is also asked for as many queries of base classes
        base = way * query
        query_y = torch.cat([query_y, way + torch.arange(way, way + base).repeat(episodes, 1)], dim=1)
    task = Task(draw(way * shot), support_y, draw(way * query + base), way, n_base=64 * bool(base), class_ids=y)
    episode = Episode(task, query_y, y).to(hardware.device)
    objective = Objective()
    _, seconds, peak = cost(lambda: objective.of_episode(learner, episode, hardware)[0].backward(), hardware, repeats)
    return seconds, task.support.shape[:2].numel() + query_y.numel(), peak
