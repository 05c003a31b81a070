"""Rates and costs, told by a clock of the test's own; memory of a process by itself."""

import functools

import numpy as np
import pytest

from episodic.run.device import Hardware


@pytest.fixture
def clock(monkeypatch):
    """A clock that only goes when the work says so: `clock(2)` lets two seconds pass."""
    from benchmark import measuring

    now = [0.0]

    def passes(seconds):
        now[0] += seconds

    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    return passes


def test_a_rate_is_episodes_by_seconds_without_the_first_call(clock):
    from benchmark import measuring

    spent = iter([100, 2, 2, 2])
    assert measuring.rate(lambda: clock(next(spent)) or 10, seconds=5) == pytest.approx(30 / 6)


def test_a_rate_has_one_step_at_least(clock):
    from benchmark import measuring

    assert measuring.rate(lambda: clock(3) or 12, seconds=0) == pytest.approx(4)


def test_a_cost_is_the_median_without_the_first_call(clock):
    from benchmark import measuring

    spent = iter([100, 1, 50, 2])
    first, seconds, _ = measuring.cost(lambda: clock(value := next(spent)) or value, Hardware.choose("cpu", "fp32"), 3)
    assert (first, seconds) == (100, 2)


def test_sides_take_turns_and_a_missed_target_is_marked():
    from benchmark import measuring

    calls, ours, theirs = [], iter([8.0, 10.0, 30.0]), iter([2.0, 5.0, 3.0])
    comparison = measuring.Comparison(
        "a", lambda: calls.append("ours") or next(ours), lambda: calls.append("peer") or next(theirs), 4
    )
    entry, line = measuring.alternate(comparison, 3)
    assert calls == ["ours", "peer"] * 3
    assert entry == {"row": "a", "ours": 10, "peer": 3, "unit": "episodes/s", "ratio": 10 / 3, "target": 4}
    assert line[-2:] == ["4, missed", "2 to 10"]


def test_the_memory_of_a_process_is_told_without_that_of_the_one_which_started_it():
    from benchmark import measuring

    np.ones(2**27)  # 1 GiB, taken and given back here
    hardware = Hardware.choose("cpu", "fp32")
    _, _, taken = measuring.alone(measuring.cost, functools.partial(np.ones, 2**23), hardware, 1)
    assert taken == pytest.approx(2**27, rel=0.1)  # the first result and the second, 64 MiB each
