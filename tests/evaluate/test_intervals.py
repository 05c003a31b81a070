from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from episodic.evaluate.intervals import FEWEST, class_interval, mean_interval, paired_interval, repeats_interval


def test_interval_of_the_sheet():
    # (0.6, 0.7, 0.8, 0.5): the sample form gives 0.12652, the population form 0.10957, the t form 0.20543.
    interval = mean_interval(np.array([0.6, 0.7, 0.8, 0.5]))
    assert interval.mean == pytest.approx(0.65)
    assert interval.half_width == pytest.approx(0.12652, abs=1e-5)


def test_interval_equals_scipys_standard_error():
    values = np.random.default_rng(0).uniform(size=500)
    assert mean_interval(values).half_width == pytest.approx(1.96 * stats.sem(values))


def test_one_episode_says_nothing_about_the_mean():
    assert mean_interval(np.array([0.5])).half_width == float("inf")


def test_paired_interval_is_tighter_when_episodes_are_hard_for_both():
    random = np.random.default_rng(0)
    hard = random.normal(0.6, 0.1, size=2000)
    ours, theirs = hard + random.normal(0.01, 0.02, 2000), hard + random.normal(0, 0.02, 2000)
    paired = paired_interval(ours, theirs)
    assert abs(paired.mean - 0.01) < paired.half_width < 0.3 * mean_interval(ours).half_width
    with pytest.raises(ValueError, match="same episodes, got 2000 and 3"):
        paired_interval(ours, theirs[:3])


def episodes_of(easiness, n_way, episodes, random):
    """Accuracy = mean easiness of the episode's classes."""
    ids = np.argsort(random.random((episodes, len(easiness))), axis=1)[:, :n_way]
    return easiness[ids].mean(1), ids


def holds(interval, value):
    return interval.mean - interval.below <= value <= interval.mean + interval.above


def test_class_interval_covers_the_mean_over_all_classes():
    # Test classes are a draw from a population with mean easiness 0.6: 95 % of the intervals should hold 0.6, which the
    # interval over episodes, blind to the draw of the classes, does not come near. Of 400 draws 95 % are 380 +- 4.4; a
    # bootstrap over the classes holds it in 90 to 91 %.
    random = np.random.default_rng(0)
    held = held_by_episodes = 0
    for _ in range(400):
        values, ids = episodes_of(random.normal(0.6, 0.1, size=16).clip(0, 1), 5, 600, random)
        held += holds(class_interval(values, ids), 0.6)
        held_by_episodes += holds(mean_interval(values), 0.6)
    assert 0.93 <= held / 400 <= 0.98
    assert held_by_episodes / 400 < 0.4


def test_class_interval_covers_also_where_nearly_all_answers_are_right():
    # Easiness has mean 0.95 and is skewed: a symmetric interval holds the mean in 89 %.
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        interval = class_interval(*episodes_of(random.beta(9.5, 0.5, size=16), 5, 600, random))
        assert interval.mean + interval.above < 1
        assert interval.below > interval.above
        held += holds(interval, 0.95)
    assert 0.92 <= held / 400 <= 0.98


def test_class_interval_is_as_wide_as_the_classes_spread():
    random = np.random.default_rng(1)
    easiness = random.normal(0.6, 0.1, size=40)
    interval = class_interval(*episodes_of(easiness, 5, 40_000, random))
    # Here the mean over episodes estimates the mean of the classes' easiness, whose standard error is known.
    expected = stats.t.ppf(0.975, 39) * easiness.std(ddof=1) / np.sqrt(40)
    assert interval.half_width == pytest.approx(expected, rel=0.02)


def test_class_interval_equals_leaving_each_class_out():
    ids = np.tile(list(combinations(range(8), 3)), (40, 1))  # each episode equally often
    values = np.random.default_rng(2).normal(0, 0.01, size=len(ids))
    left_out = np.array([values[(ids != c).all(1)].mean() for c in range(8)])
    error = np.sqrt(7 / 8 * np.square(left_out - left_out.mean()).sum())
    found = class_interval(values, ids, bounds=(-1, 1))
    assert found.mean == pytest.approx(values.mean())
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 7) * error, rel=1e-3)


def test_class_interval_of_differences_may_be_below_0():
    random = np.random.default_rng(3)
    values, ids = episodes_of(random.normal(-0.02, 0.1, size=20).clip(-1, 1), 5, 1000, random)
    found = class_interval(values, ids, bounds=(-1, 1))
    mirrored = class_interval(-values, ids, bounds=(-1, 1))
    assert found.mean - found.below < 0 < found.mean + found.above
    assert (mirrored.below, mirrored.above) == pytest.approx((found.above, found.below))
    with pytest.raises(ValueError, match=r"values must lie in 0\.\.1, got -.*: see bounds"):
        class_interval(values, ids)


@pytest.mark.parametrize("value", [0.0, 0.6, 1.0])
def test_class_interval_of_equal_episodes_has_no_width(value):
    _, ids = episodes_of(np.zeros(8), 5, 100, np.random.default_rng(0))
    found = class_interval(np.full(100, value), ids)
    assert (found.mean, found.below, found.above) == pytest.approx((value, 0, 0))


def test_class_interval_needs_more_classes_than_an_episode_takes_and_enough_episodes_of_each():
    assert class_interval(np.ones(300), np.tile(np.arange(5), (300, 1))) is None
    each = np.stack([np.arange(6), np.arange(6) + 1], axis=1) % 6  # every class is in two of these episodes
    enough = FEWEST // 2
    assert class_interval(np.ones(6 * enough), np.tile(each, (enough, 1))) is not None
    assert class_interval(np.ones(6 * enough - 6), np.tile(each, (enough - 1, 1))) is None
    rare = np.concatenate([np.tile(each, (5 * enough, 1)), [[0, 6]]])  # a class that is in one episode
    assert class_interval(np.ones(len(rare)), rare) is None
    assert class_interval(np.ones(1), np.array([[0, 1]])) is None


def test_interval_over_repeats_holds_as_often_as_it_says():
    random = np.random.default_rng(0)
    draws = random.normal(0.5, 0.1, size=(4000, 3))
    held = np.mean([abs(repeats_interval(x).mean - 0.5) <= repeats_interval(x).half_width for x in draws])
    assert 0.94 < held < 0.96
    assert repeats_interval(np.array([0.5])).half_width == np.inf
    assert repeats_interval(np.array([1.0, 2.0, 3.0])).half_width == pytest.approx(4.303 / 3**0.5, rel=1e-3)
