"""Whether queries see each other, and whether classes are treated alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from episodic.episodes.source import Episodes


def audit(predict: Callable, episodes: Episodes, count: int = 20, seed: int = 0) -> dict[str, float]:
    """How much log-probabilities `l` of queries change where nothing that an inductive learner may see has changed.

    Re-runs `count` episodes with the queries permuted, with one query at a time, with the classes relabeled (and the
    answers mapped back), and with the unlabeled items permuted; gives the largest `|change| / (1 + |l|)` of each. It is
    rounding for an inductive learner that treats classes alike; a change under the first two means that queries see each
    other: transductive, or batch statistics that leak. `predict` (see `predictor`) should work in float32.
    """
    random = np.random.Generator(np.random.Philox(seed))
    checks = ("queries permuted", "one query at a time", "classes relabeled", "unlabeled permuted")
    worst = dict.fromkeys(checks, 0.0)
    for i in range(min(count, episodes.episodes)):
        indices = episodes[i : i + 1]

        def answer(**changes: np.ndarray) -> Tensor:
            return predict(dataclasses.replace(indices, **changes))[1].logits.float().log_softmax(-1)  # noqa: B023

        before = answer()
        if not before.isfinite().all():
            raise ValueError(
                f"the learner's log-probabilities of episode {i} are not finite, so nothing can be said of them"
            )
        order = random.permutation(indices.query.shape[1])
        permuted = answer(query=indices.query[:, order], query_y=indices.query_y[:, order])
        alone = [answer(query=indices.query[:, [q]], query_y=indices.query_y[:, [q]]) for q in range(len(order))]
        name = random.permutation(indices.n_way)
        name = np.concatenate([name, np.arange(indices.n_way, indices.n_way + indices.n_base)])
        relabeled = answer(support_y=name[indices.support_y], query_y=name[indices.query_y])
        shuffled = answer(unlabeled=indices.unlabeled[:, random.permutation(indices.unlabeled.shape[1])])
        again = (permuted - before[:, order], torch.cat(alone, dim=1) - before, relabeled[..., name] - before)
        again, sizes = (*again, shuffled - before), (before[:, order], before, before, before)
        for key, change, size in zip(worst, again, sizes, strict=True):
            worst[key] = max(worst[key], float((change.abs() / (1 + size.abs())).nan_to_num(nan=torch.inf).max()))
    return worst


def verdict(changes: dict[str, float], declared: bool) -> str:
    """What `changes`, found by `audit`, say of a learner that is `declared` transductive or not: a line for people."""
    shown = ", ".join(f"{name}: {change:.1e}" for name, change in changes.items())
    tolerance = 1e-3  # of float32 rounding, which changes with the shape of a batch, a hundred times as much
    sees_queries = max(changes["queries permuted"], changes["one query at a time"]) > tolerance
    kind = "transductive" if sees_queries else "inductive"
    warning = f" It declares itself {'transductive' if declared else 'inductive'}." if sees_queries != declared else ""
    if changes["classes relabeled"] > tolerance:
        warning += " Its answer depends on how the classes are numbered."
    if changes["unlabeled permuted"] > tolerance:
        warning += " Its answer depends on the order of the unlabeled items."
    return f"Audit: {kind} (largest relative change of a log-probability; {shown}).{warning}"
