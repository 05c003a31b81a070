"""The accuracy of each episode: the share of its queries that are answered right. Incremental and semi-supervised episodes have
further shares.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def accuracy(
    logits: Float[Tensor, "episode query way"], query_y: Int64[Tensor, "episode query"]
) -> Float[Tensor, " episode"]:
    """The share of queries in each episode that are answered right. The answer to a query is the class with the largest logit; of
    several equal ones the first counts.

    >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]]])  # one episode of three queries and two classes
    >>> accuracy(logits, torch.tensor([[0, 1, 1]]))
    tensor([0.6667])
    """
    return (logits.argmax(-1) == query_y).float().mean(-1)


def incremental_accuracies(
    logits: Float[Tensor, "episode query answers"], query_y: Int64[Tensor, "episode query"], n_way: int
) -> dict[str, Float[Tensor, " episode"]]:
    """The accuracy of each incremental episode, for queries of new classes and of base classes apart. The first `n_way` answers are
    the new classes. The base classes, which training knew, follow.

    - `novel`, `base`: the accuracy on queries of new (base) classes, where any class may be the answer.
    - `novel alone`, `base alone`: the same, where only classes of the query's own kind may be the answer.
    - `delta novel`, `delta base`: `novel - novel alone` and `base - base alone`. They are 0 or negative, and say what it costs that
      the other kind of classes may be the answer too (the paper's Δ_b and Δ_a).
    - `delta`: the mean of `delta novel` and `delta base`.

    Ren, Liao, Fetaya, Zemel: *Incremental Few-Shot Learning with Attention Attractor Networks*, NeurIPS 2019,
    https://arxiv.org/abs/1810.07218.

    **Arguments:** `query_y`: as in `Episode`, a query of base class c has the label `n_way + c`. An episode without queries of one
    kind has NaN there.

    >>> logits = torch.tensor([[[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]])  # one new class and two base classes
    >>> for name, values in incremental_accuracies(logits, torch.tensor([[0, 2]]), n_way=1).items():
    ...     print(name, values.item())
    novel 0.0
    base 1.0
    novel alone 1.0
    base alone 1.0
    delta novel -1.0
    delta base 0.0
    delta -0.5
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
    """How well a semi-supervised learner guesses the classes of the unlabeled items in each episode. It is told by the weight with
    which each item was `taken` for each class.

    - `unlabeled accuracy`: the share of the items of the task's classes that were taken most for their own class. An item that was
      not taken at all (weights of 0) counts as wrong.
    - `unlabeled purity`: of all weight that was given away, the share that went to the right class; 1 where none was given away.

    **Arguments:** `taken`: weights, at least 0 (see `Prediction.unlabeled`). `unlabeled_y`: the true class, −1 for a distractor,
    whose weight is never right.

    >>> taken = torch.tensor([[[0.9, 0.1], [0.0, 0.0], [0.0, 0.5]]])  # one episode of three items and two classes
    >>> values = unlabeled_accuracies(taken, torch.tensor([[0, 1, -1]]))
    >>> values["unlabeled accuracy"], values["unlabeled purity"]
    (tensor([0.5000]), tensor([0.6000]))
    """
    own = (unlabeled_y >= 0).float()
    right = ((taken.argmax(-1) == unlabeled_y) & (taken.amax(-1) > 0)).float()
    weight = taken.gather(-1, unlabeled_y.clamp(min=0)[..., None])[..., 0] * own
    total = taken.sum((1, 2))
    return {
        "unlabeled accuracy": right.sum(-1) / own.sum(-1).clamp(min=1),
        "unlabeled purity": torch.where(total > 0, weight.sum(-1) / total, 1),
    }
