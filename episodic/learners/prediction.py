"""What a learner answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from episodic.episodes.task import Episode

Loss = Callable[[Episode], Float[Tensor, " episode"]]  # called with the episode that was answered, answers revealed


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The answer of a learner to a batch of tasks, and how it wants to be trained on it.

    A learner answers before it can know the labels of the queries, so what it learns by is a function that the objective
    calls with the whole episode afterwards.

    - `logits`: `[E, Q, n_way]`, log-odds up to a constant per query: softmax over the last axis gives probabilities. In an
      incremental task `n_base` further columns follow, the base classes.
    - `loss`: episode -> `[E]`, what the answer is trained by; None for the cross-entropy of the logits.
    - `terms`: further losses, each episode -> `[E]`, that are added to it.
    - `unlabeled`: `[E, U, n_way]` or None, how much each unlabeled item was taken for each class: 0 and more, in sum at most 1.
      For analysis.
    """

    logits: Float[Tensor, "episode query answers"]
    loss: Loss | None = None
    terms: dict[str, Loss] = dataclasses.field(default_factory=dict)
    unlabeled: Float[Tensor, "episode unlabeled way"] | None = None
