"""Time label propagation in a batch against scikit-learn, episode by episode: the rows `propagation` of the benchmark.

There are 1,000 episodes with 25 unlabeled items each (5 a class) and features of 64 numbers in memory. Ours solves the closed form
for 50 episodes at once; scikit-learn is fitted to one after the other, with the same Gaussian kernel and alpha.

- Transductive, on graphs of 105 items: against `LabelSpreading` with its defaults (max_iter 30, tol 1e-3) at alpha 0.8; and with
  tol 1e-6 at the paper's alpha of 0.99, where the defaults stop far from the solution.
- Inductive, on graphs of 30 items: against `LabelPropagation` with its defaults (max_iter 1000, tol 1e-3), which is fitted and
  then asked for the queries.

Before anything is timed, labels must agree on 99.9 % of the queries, and distributions to 1e-5 with tol 1e-12.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sklearn.semi_supervised
import torch
from torch import nn

from benchmark.measuring import DIFFERENT, Comparison, in_child, rate
from episodic import Task
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.semi.label_propagation import LabelPropagation

EPISODES, BATCH = 1000, 50  # a batch's graphs of 105 items are 2.2 MB and stay in the processor's cache
WAY, QUERY, UNLABELED, DIM = 5, 15, 5, 64
GAMMA = 1 / 32  # weights of exp(-2) within a class and exp(-6) between two
TARGET = 50
CONVERGED = {"max_iter": 100_000, "tol": 1e-12}

# (our settings, scikit-learn's class, its settings beside the kernel; {} for its defaults)
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "propagation, transductive / scikit-learn LabelSpreading": (
        {"alpha": 0.8, "transductive": True},
        "LabelSpreading",
        {"alpha": 0.8},
    ),
    "propagation, transductive / LabelSpreading, alpha 0.99, tol 1e-6": (
        {"alpha": 0.99, "transductive": True},
        "LabelSpreading",
        {"alpha": 0.99, "max_iter": 100_000, "tol": 1e-6},
    ),
    "propagation, inductive, clamped / LabelPropagation, predict": (
        {"alpha": 1 - 1e-6, "clamp": True},
        "LabelPropagation",
        {},
    ),
}


def propagation(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Compare label propagation on features in memory."""
    for row in CASES:
        if not compare(row, hardware):
            raise SystemExit(f"propagation: {DIFFERENT}")
        ours = functools.partial(rate, our_step(row, hardware), args.seconds)
        yield Comparison(row, ours, functools.partial(in_child, peer_rate, row, args.seconds), TARGET)


def peer_rate(row: str, seconds: float) -> float:
    return rate(peer_step(row), seconds)


def episodes() -> Task:
    """Gaussian classes around Gaussian centers, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(EPISODES, WAY, 1, DIM, generator=generator)

    def draw(n: int) -> torch.Tensor:
        return (centers + 0.7 * torch.randn(EPISODES, WAY, n, DIM, generator=generator)).flatten(1, 2)

    return Task(draw(1), torch.arange(WAY).repeat(EPISODES, 1), draw(QUERY), WAY, draw(UNLABELED))


def ours(row: str, hardware: Hardware) -> Callable[[int], torch.Tensor]:
    """A function: number of a batch -> the queries' distributions over classes."""
    settings = {**CASES[row][0], "gamma": GAMMA, "scale_neighbor": 0, "neighbors": 0}
    wrapper = LabelPropagation(Prototypical(nn.Identity()), **settings).eval()
    task = episodes()
    roles = [role.to(hardware.device) for role in (task.support, task.support_y, task.query, task.unlabeled)]
    batches = [Task(*parts[:3], WAY, parts[3]) for parts in zip(*(role.split(BATCH) for role in roles), strict=True)]

    @torch.inference_mode()
    def answer(batch: int) -> torch.Tensor:
        return wrapper.classify(batches[batch]).logits.softmax(-1).cpu()

    return answer


def scikit_learn(row: str, **precision: Any) -> Callable[[int], np.ndarray]:
    """A function: number of an episode -> the queries' distributions over classes. `precision` overrides the row's settings."""
    settings, name, theirs = CASES[row]
    model = getattr(sklearn.semi_supervised, name)(kernel="rbf", gamma=GAMMA, **{**theirs, **precision})
    task = episodes()
    known = torch.cat([task.support, task.unlabeled], dim=1).double().numpy()
    query = task.query.double().numpy()
    together = np.concatenate([known, query], axis=1)
    labels = np.concatenate([np.arange(WAY), np.full(together.shape[1] - WAY, -1)])

    def answer(episode: int) -> np.ndarray:
        if settings.get("transductive"):
            return model.fit(together[episode], labels).label_distributions_[known.shape[1] :]
        return model.fit(known[episode], labels[: known.shape[1]]).predict_proba(query[episode])

    return answer


def compare(row: str, hardware: Hardware) -> bool:
    """Whether both give the same labels, as they are timed, and the same distributions where scikit-learn converges."""
    found = ours(row, hardware)(0).numpy()
    as_timed, converged = scikit_learn(row), scikit_learn(row, **CONVERGED)
    same = (np.stack([as_timed(e) for e in range(BATCH)]).argmax(-1) == found.argmax(-1)).mean()
    error = max(np.abs(converged(e) - found[e]).max() for e in range(5))
    print(f"{row}: {same:.2%} of {BATCH * WAY * QUERY:,} answers equal;")
    print(f"  5 episodes with tol 1e-12: distributions differ by at most {error:.0e}")
    return bool(same >= 0.999 and error < 1e-5)


def our_step(row: str, hardware: Hardware) -> Callable[[], int]:
    """A function that answers one batch a call and returns how many episodes that are."""
    answer, batches = ours(row, hardware), itertools.cycle(range(EPISODES // BATCH))
    return lambda: len(answer(next(batches)))


def peer_step(row: str) -> Callable[[], int]:
    """A function that answers one episode a call."""
    answer, numbers = scikit_learn(row), itertools.cycle(range(EPISODES))
    return lambda: len([answer(next(numbers))])
