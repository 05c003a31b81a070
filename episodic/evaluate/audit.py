"""Checks whether a learner's answer to a query depends on the other queries, and whether it treats all classes alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from episodic.episodes.source import Episodes


def audit(predict: Callable, episodes: Episodes, count: int = 20, seed: int = 0) -> dict[str, float]:
    """Measures how much a learner's answers change where they should not: when an episode is shown to it in another way. It finds
    out whether a learner is transductive, and whether its answers depend on the order of classes or items.

        change = max over queries and classes of |l' - l| / (1 + |l|)

    with `l` the log-probability of a class before, and `l'` after the change. The result has the largest change in all episodes,
    for each of:

    - `queries permuted`: the queries come in another order.
    - `one query at a time`: each query is asked about alone.
    - `classes relabeled`: the classes get other numbers, and the answers are mapped back.
    - `unlabeled permuted`: the unlabeled items come in another order.

    All four are rounding errors for an inductive learner that treats classes alike. A change under the first two means that queries
    see each other: the learner is transductive, or statistics of a batch leak.

    **Arguments:**

    - `predict`: `indices -> (episode, prediction)`, as `scoring.predictor` gives it. It should compute in float32.
    - `episodes`: what episodes are taken from. `count` (default 20): how many, from the first on.
    - `seed` (default 0): of the permutations.

    **Raises:** `ValueError` where an answer is not finite.

    >>> from episodic import EpisodeSampler, Prediction
    >>> def predict(indices):  # items are points on a line, each at its own index; the nearest support item decides
    ...     support, query = torch.from_numpy(indices.support), torch.from_numpy(indices.query)
    ...     classes = torch.nn.functional.one_hot(torch.from_numpy(indices.support_y))
    ...     return None, Prediction(-(query[:, :, None] - support[:, None]).abs().double() @ classes.double())
    >>> changes = audit(predict, EpisodeSampler([0] * 5 + [1] * 5, n_way=2, n_shot=1, n_query=2, episodes=3))
    >>> max(changes.values()) < 1e-5
    True
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
    """What an audit says of a learner, as a line for people. A change above 0.001 counts as one; smaller ones are rounding.

    **Arguments:** `changes`: what `audit` found. `declared`: whether the learner declares itself transductive.

    >>> checks = ("queries permuted", "one query at a time", "classes relabeled", "unlabeled permuted")
    >>> print(verdict(dict.fromkeys(checks, 0.0), declared=True))
    Audit: inductive (largest relative change of a log-probability; ...). It declares itself transductive.
    """
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
