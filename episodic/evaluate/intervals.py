"""Intervals of a mean: over episodes, over pairs of results, over repeats, and over classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

# The fewest episodes of each class for an interval over classes. With 20 their noise makes it a quarter wider where classes differ
# by 12 points (standard deviation), with 10 a half wider.
FEWEST = 20


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval. The interval goes from `mean - below` to `mean + above`.

    >>> Interval(mean=0.5, below=0.1, above=0.3).half_width
    0.2
    """

    mean: float
    below: float
    above: float

    @property
    def half_width(self) -> float:
        """Half of the width of the interval: the number after ±."""
        return (self.below + self.above) / 2


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of some values with its 95 % interval. It is the interval that papers print after ±.

        mean ± 1.96 * std(values, ddof=1) / sqrt(E)

    It covers the draw of the episodes only, neither the training seed nor the choice of test classes. One value alone has an
    interval of infinite width.

    **Arguments:** `values [E]`: such as the accuracies of episodes.

    >>> interval = mean_interval([0.5, 0.7])
    >>> print(f"{interval.mean:.3f} ± {interval.half_width:.3f}")
    0.600 ± 0.196
    """
    values = np.asarray(values, dtype=np.float64)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("inf")
    return Interval(float(values.mean()), float(half), float(half))


def paired_interval(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """The mean difference of two learners on the same episodes, with its 95 % interval. It is several times narrower than the
    difference of two separate intervals: what makes an episode hard is hard for both learners, and cancels.

    **Arguments:** `ours`, `theirs`: `[E]`, one value for each episode, in the same order. The result is `ours - theirs`.

    **Raises:** `ValueError` where the lengths differ.

    >>> interval = paired_interval(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.6, 0.8]))
    >>> print(f"{interval.mean:.3f} ± {interval.half_width:.3f}")
    0.100 ± 0.000
    """
    if len(ours) != len(theirs):
        raise ValueError(f"a paired comparison needs the same episodes, got {len(ours)} and {len(theirs)}")
    return mean_interval(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))


def repeats_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of a few repeats, such as training seeds, with its 95 % interval by Student's t. One repeat alone has an interval of
    infinite width.

        mean ± t(0.975, R - 1) * std(values, ddof=1) / sqrt(R)

    **Arguments:** `values [R]`, one a repeat.

    >>> interval = repeats_interval([0.60, 0.62, 0.64])
    >>> print(f"{interval.mean:.3f} ± {interval.half_width:.3f}")
    0.620 ± 0.050
    """
    from scipy.special import stdtrit  # Student's quantiles; takes a while

    values = np.asarray(values, dtype=np.float64)
    wider = stdtrit(len(values) - 1, 0.975) / 1.96 if len(values) > 1 else 1.0
    interval = mean_interval(values)
    return Interval(interval.mean, wider * interval.below, wider * interval.above)


def class_interval(
    values: np.ndarray, class_ids: np.ndarray, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval | None:
    """The mean over episodes with a 95 % interval that also covers the choice of the test classes. It is found by leaving out one
    class after the other, the jackknife.

    Ten thousand episodes of twenty classes are not ten thousand independent tests: other classes might be easier or harder. The
    mean over episodes is a U-statistic of order `n_way` in the classes. Leaving class c out moves it by
    `-W / (C - W) * (g_c - mean)`, with C classes, W of them in an episode, and `g_c` the mean over the episodes that hold c. These
    are the pseudo-values of the jackknife, which are treated as independent values, one a class:

        p_c = mean + (C - 1) * W / (C - W) * (g_c - mean)
        h = t(0.975, C - 1) * std(p, ddof=1) / sqrt(C)

    `mean ± h` would be too short on one side and could leave 0..1 where nearly all answers are right, since there classes differ
    more in that direction. So it is taken on the scale of log-odds, `logit(mean) ± h / (mean (1 - mean))`, and brought back.

    With few episodes of each class it is too wide rather than too narrow, since `g_c` has the noise of its episodes.

    **Arguments:**

    - `values [E]`: such as accuracies. `class_ids [E, W]`: the data set's classes in each episode.
    - `bounds` (default 0 and 1): between which values lie, and the interval too; -1 and 1 for differences of accuracies.

    **Returns** None where nothing can be said of other classes: if there are no more classes than an episode takes, or fewer than
    `FEWEST` episodes of each class (their harmonic mean, since the noise is one over their number).

    **Raises:** `ValueError` for values outside of `bounds`.

    >>> random = np.random.default_rng(0)
    >>> class_ids = np.stack([random.choice(20, size=5, replace=False) for _ in range(1000)])
    >>> accuracies = (class_ids < 10).mean(1)  # the learner knows half of the classes
    >>> class_interval(accuracies, class_ids).half_width > 10 * mean_interval(accuracies).half_width
    True
    """
    from scipy.special import expit, logit  # takes a while

    values, class_ids = np.asarray(values, np.float64), np.asarray(class_ids)
    low, high = bounds
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(f"values must lie in {low:g}..{high:g}, got {values.min():g}..{values.max():g}: see bounds")
    present, column = np.unique(class_ids, return_inverse=True)
    n_classes, n_way = len(present), class_ids.shape[1]
    column = column.reshape(-1)
    held = np.bincount(column)
    if n_classes <= n_way or (1 / held).mean() > 1 / FEWEST:
        return None
    shares = (values - low) / (high - low)
    of_class = np.bincount(column, weights=np.repeat(shares, n_way)) / held
    mean = shares.mean()
    half = repeats_interval((n_classes - 1) * n_way / (n_classes - n_way) * (of_class - mean)).half_width
    if half == 0:  # as where all values lie at a bound, which has no log-odds
        return Interval(float(values.mean()), 0.0, 0.0)
    ends = expit(logit(mean) + np.array([-1, 1]) * half / (mean * (1 - mean)))
    below, above = (high - low) * np.abs(ends - mean)
    return Interval(float(values.mean()), float(below), float(above))
