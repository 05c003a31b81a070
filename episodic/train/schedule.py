"""Learning rates as pure functions of the step, so that a resumed run needs no state for them."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]  # (step, steps) -> factor on the learning rate


def constant() -> Schedule:
    """Always 1."""
    return lambda step, steps: 1.0


def step(every: int = 2000, gamma: float = 0.5) -> Schedule:
    """Times `gamma` after each `every` steps: `gamma ** (step // every)`. The ProtoNet paper halves every 2,000 episodes."""
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    return lambda step, steps: gamma ** (step // every)


def cosine(warmup: int = 0) -> Schedule:
    """Linear from 0 over `warmup` steps, then half a cosine down to 0 at the last step (SGDR without restarts, Loshchilov
    and Hutter, 2017, https://arxiv.org/abs/1608.03983)."""

    def factor(step: int, steps: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor
