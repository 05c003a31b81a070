"""What can honestly be said of a mean: intervals over episodes, classes, pairs and repeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with a 95 % interval `mean - below ... mean + above`."""

    mean: float
    below: float
    above: float

    @property
    def half_width(self) -> float:
        return (self.below + self.above) / 2


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean ± 1.96 · std(ddof=1) / √E over `values [E]`: the interval that the field prints (E = 1: of infinite width).

    It covers the draw of the episodes only, neither the training seed nor the choice of test classes.
    """
    values = np.asarray(values, dtype=np.float64)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("inf")
    return Interval(float(values.mean()), float(half), float(half))


def paired_interval(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Mean and interval of the per-episode difference `ours - theirs`, two learners on the same episodes `[E]`.

    What makes an episode hard is common to both and cancels, so this is several times tighter than two intervals side by
    side.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"a paired comparison needs the same episodes, got {len(ours)} and {len(theirs)}")
    return mean_interval(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))


def repeats_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean of a few repeats `[R]`, e.g. training seeds, with Student's t interval (R = 1: of infinite width)."""
    from scipy.stats import t  # takes a while

    values = np.asarray(values, dtype=np.float64)
    wider = t.ppf(0.975, len(values) - 1) / 1.96 if len(values) > 1 else 1.0
    interval = mean_interval(values)
    return Interval(interval.mean, wider * interval.below, wider * interval.above)


def class_bootstrap(
    accuracies: np.ndarray, class_ids: np.ndarray, *, replicates: int = 2000, seed: int = 0
) -> Interval | None:
    """Interval of the mean that also counts the draw of the test classes: a bootstrap over classes.

    Ten thousand episodes of twenty classes are not ten thousand independent tests. The mean over episodes is a
    U-statistic of order `n_way` in the classes: leaving class c out moves it by `-W / (C - W) · (g_c - mean)`, with `g_c` the
    mean over the episodes that hold c. The jackknife pseudo-values `mean + (C - 1) · W / (C - W) · (g_c - mean)` are drawn with
    replacement, and the 2.5 and 97.5 percentiles of their means taken. With few episodes a class the interval is wide
    rather than narrow, since `g_c` carries the noise of its episodes.

    **Arguments:** `accuracies [E]`; `class_ids [E, W]`, the data set's classes in each episode.

    **Returns** None where there are no more classes than an episode takes: nothing can be said of other classes then.
    """
    accuracies, class_ids = np.asarray(accuracies, np.float64), np.asarray(class_ids)
    present, column = np.unique(class_ids, return_inverse=True)
    n_classes, n_way = len(present), class_ids.shape[1]
    if n_classes <= n_way:
        return None
    column = column.reshape(-1)
    held = np.bincount(column)
    per_class = np.bincount(column, weights=np.repeat(accuracies, n_way)) / held
    mean = accuracies.mean()
    moved = (n_classes - 1) * n_way / (n_classes - n_way) * (per_class - mean)
    random = np.random.Generator(np.random.Philox(seed))
    weights = random.multinomial(n_classes, np.full(n_classes, 1 / n_classes), size=replicates) / n_classes
    low, high = np.percentile(weights @ (moved - moved.mean()), [2.5, 97.5])
    return Interval(float(mean), float(-low), float(high))
