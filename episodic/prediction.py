"""What a learner answers."""

from __future__ import annotations

import dataclasses

from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The answer of a learner to a batch of tasks.

    - `logits`: `[E, Q, n_way]`, log-odds up to a constant per query: softmax over the last axis gives probabilities.
    - `terms`: auxiliary losses that the learner wants added to the objective, each `[E]`.
    """

    logits: Float[Tensor, "episode query way"]
    terms: dict[str, Float[Tensor, " episode"]] = dataclasses.field(default_factory=dict)
