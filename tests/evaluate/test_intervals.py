import numpy as np
import pytest
from scipy import stats

from episodic.evaluate.intervals import class_bootstrap, mean_interval, paired_interval, repeats_interval


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


def test_class_interval_covers_the_mean_over_all_classes():
    # Test classes are a draw from a population with mean easiness 0.6: 95 % of the intervals should hold 0.6, which the
    # interval over episodes, blind to the draw of the classes, does not come near.
    random = np.random.default_rng(0)
    held = held_by_episodes = 0
    for _ in range(200):
        scores, ids = episodes_of(random.normal(0.6, 0.1, size=20), 5, 2000, random)
        interval, naive = class_bootstrap(scores, ids, replicates=500), mean_interval(scores)
        held += interval.mean - interval.below <= 0.6 <= interval.mean + interval.above
        held_by_episodes += abs(naive.mean - 0.6) <= naive.half_width
    assert 0.88 <= held / 200 <= 0.99
    assert held_by_episodes / 200 < 0.4


def test_class_interval_is_as_wide_as_the_classes_spread():
    random = np.random.default_rng(1)
    easiness = random.normal(0.6, 0.1, size=40)
    interval = class_bootstrap(*episodes_of(easiness, 5, 40_000, random), replicates=4000)
    # Here the mean over episodes estimates the mean of the classes' easiness, whose standard error is known.
    assert interval.half_width == pytest.approx(1.96 * easiness.std(ddof=1) / np.sqrt(40), rel=0.1)


def test_class_interval_needs_more_classes_than_an_episode_takes():
    assert class_bootstrap(np.ones(3), np.tile(np.arange(5), (3, 1))) is None


def test_interval_over_repeats_holds_as_often_as_it_says():
    random = np.random.default_rng(0)
    draws = random.normal(0.5, 0.1, size=(4000, 3))
    held = np.mean([abs(repeats_interval(x).mean - 0.5) <= repeats_interval(x).half_width for x in draws])
    assert 0.94 < held < 0.96
    assert repeats_interval(np.array([0.5])).half_width == np.inf
    assert repeats_interval(np.array([1.0, 2.0, 3.0])).half_width == pytest.approx(4.303 / 3**0.5, rel=1e-3)
