"""Shares of right answers in each episode."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def accuracy(
    logits: Float[Tensor, "episode query way"], query_y: Int64[Tensor, "episode query"]
) -> Float[Tensor, " episode"]:
    """Share of right answers in each episode. Ties go to the first class."""
    return (logits.argmax(-1) == query_y).float().mean(-1)


def incremental_accuracies(
    logits: Float[Tensor, "episode query answers"], query_y: Int64[Tensor, "episode query"], n_way: int
) -> dict[str, Float[Tensor, " episode"]]:
    """Shares of right answers in each incremental episode (Ren et al., 2019): the first `n_way` answers are new classes.

    `novel`, `base`: of the queries of new (base) classes, with all answers allowed. `novel alone`, `base alone`: of the
    same, with answers of their own kind only. `delta novel`, `delta base`: what the others cost, joint minus alone (the
    paper's Δ_b and Δ_a); `delta`: their mean.
    """
    novel = (query_y < n_way).float()

    def share(right: Tensor, of: Tensor) -> Tensor:
        return (right.float() * of).sum(-1) / of.sum(-1)

    joint = logits.argmax(-1) == query_y
    values = {
        "novel": share(joint, novel),
        "base": share(joint, 1 - novel),
        "novel alone": share(logits[..., :n_way].argmax(-1) == query_y, novel),
        "base alone": share(logits[..., n_way:].argmax(-1) + n_way == query_y, 1 - novel),
    }
    for kind in ("novel", "base"):
        values[f"delta {kind}"] = values[kind] - values[f"{kind} alone"]
    values["delta"] = (values["delta novel"] + values["delta base"]) / 2
    return values


def unlabeled_accuracies(
    taken: Float[Tensor, "episode unlabeled way"], unlabeled_y: Int64[Tensor, "episode unlabeled"]
) -> dict[str, Float[Tensor, " episode"]]:
    """How well each episode used its unlabeled items, by how much each was `taken` for each class (label −1: distractor).

    `unlabeled accuracy`: share of the items of the task's classes that were taken most for their own class; those not taken
    at all count as wrong. `unlabeled purity`: the weight that went to the right class, of all weight that was given away; 1
    where none was.
    """
    own = (unlabeled_y >= 0).float()
    right = ((taken.argmax(-1) == unlabeled_y) & (taken.amax(-1) > 0)).float()
    weight = taken.gather(-1, unlabeled_y.clamp(min=0)[..., None])[..., 0] * own
    total = taken.sum((1, 2))
    return {
        "unlabeled accuracy": right.sum(-1) / own.sum(-1).clamp(min=1),
        "unlabeled purity": torch.where(total > 0, weight.sum(-1) / total, 1),
    }
