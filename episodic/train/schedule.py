"""Schedules of the learning rate. Each is a pure function of the step, so a resumed run needs no state for it."""

from __future__ import annotations

import abc
import math


class AbstractSchedule(abc.ABC):
    """A factor on the learning rate that depends on the step: `schedule(step, steps) -> factor`. Subclasses write it, and `check`.

    `follows_length` says whether the factor of a step depends on how many steps there will be. Such a run cannot be resumed with
    another number of steps.

    >>> class Halved(AbstractSchedule):
    ...     def __call__(self, step, steps):
    ...         return 0.5
    ...     def check(self, steps):
    ...         pass
    >>> Halved()(step=3, steps=10)
    0.5
    """

    follows_length: bool = False

    @abc.abstractmethod
    def __call__(self, step: int, steps: int) -> float:
        """The factor of step `step`, from 0, of `steps`."""

    @abc.abstractmethod
    def check(self, steps: int) -> None:
        """**Raises:** `ValueError` where the schedule changes nothing in that many steps."""


class Constant(AbstractSchedule):
    """The factor 1: the learning rate stays as it is.

    >>> Constant()(step=700, steps=1000)
    1.0
    """

    def __call__(self, step: int, steps: int) -> float:
        return 1.0

    def check(self, steps: int) -> None:
        """Nothing can be wrong with it."""


class Step(AbstractSchedule):
    """Multiplies the learning rate by `gamma` after each `every` steps. Between them it stays as it is.

        factor = gamma ** (step // every)

    The defaults (2000 and 0.5) are those of Prototypical Networks: half after each 2,000 episodes.

    **Raises:** `ValueError` for `every` below 1.

    >>> Step(every=2000, gamma=0.5)(step=4100, steps=6000)
    0.25
    """

    def __init__(self, every: int = 2000, gamma: float = 0.5):
        if every < 1:
            raise ValueError(f"schedule.every must be at least 1, got {every}")
        self.every = every
        self.gamma = gamma

    def __call__(self, step: int, steps: int) -> float:
        return self.gamma ** (step // self.every)

    def check(self, steps: int) -> None:
        if self.every >= steps:
            raise ValueError(
                f"schedule.every={self.every} is never reached in trainer.steps={steps}, so the rate would stay as it is: take "
                "fewer, or schedule=constant"
            )


class Cosine(AbstractSchedule):
    """Lets the learning rate rise evenly over the first `warmup` steps, and then fall along half a cosine to 0 at the last step.

        factor = (step + 1) / warmup                                                while step < warmup
        factor = (1 + cos(pi (step - warmup) / (steps - warmup))) / 2               then

    Loshchilov, Hutter: *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017, https://arxiv.org/abs/1608.03983, without
    the restarts.

    **Arguments:** `warmup` (default 0): steps.

    **Raises:** `ValueError` for a negative `warmup`.

    >>> Cosine()(step=500, steps=1000)
    0.5
    """

    follows_length = True

    def __init__(self, warmup: int = 0):
        if warmup < 0:
            raise ValueError(f"schedule.warmup must be at least 0, got {warmup}")
        self.warmup = warmup

    def __call__(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, steps - self.warmup)))

    def check(self, steps: int) -> None:
        if self.warmup >= steps:
            raise ValueError(f"schedule.warmup={self.warmup} is as long as trainer.steps={steps}: take fewer")
