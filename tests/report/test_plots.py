"""The figures of a report show the numbers that they are given."""

import numpy as np
import pytest

from episodic.report import plots
from tests.report.cases import counts_of, student


def test_whiskers_stop_where_an_accuracy_does_and_are_left_out_where_there_is_no_interval():
    counts = counts_of(([0, 1], 4, {(0, 1): 3}), ([0, 1], 4, {}))
    [below], [above] = plots.reaches(counts, np.array([0]))
    assert (62.5 - below, 62.5 + above) == pytest.approx(100 * student([0.25, 1.0])) == (0, 100)
    assert np.isnan(plots.reaches(counts, np.array([1]))).all()
    [bar] = plots.class_bars(plots.LIGHT, counts, "abcdef").axes[0].collections
    assert [sorted(line[:, 0]) for line in bar.get_segments() if len(line)] == [pytest.approx([0, 100])]


def test_the_curves_are_named_by_what_their_accuracies_are_of():
    protocols = {"train/accuracy": "20-way 1-shot", "val/accuracy": "5-way 1-shot"}
    curves = {tag: (np.array([10, 50]), np.array([0.25, 0.5])) for tag in ("train/loss", *protocols)}
    legend = plots.training(plots.LIGHT, curves, protocols).axes[1].get_legend()
    assert [label.get_text().split(", mean")[0] for label in legend.get_texts()] == [
        "training, 20-way 1-shot",
        "validation, 5-way 1-shot",
    ]


def test_long_and_odd_names_fit_into_a_line():
    assert plots.short("a\nb\x07c") == "a b c"
    assert plots.short("0123456789" * 4, 10) == "0123…56789"
