import json
from pathlib import Path

import pytest

from episodic.config.help import options_of
from episodic.evaluate.published import CONV4, published

RECORDS = Path(__file__).parents[2] / "scripts" / "results"


def test_all_names_are_options():
    assert set(CONV4) <= set(options_of("task"))
    assert {learner for figures in CONV4.values() for learner in figures} <= set(options_of("learner"))


@pytest.mark.parametrize("record", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_the_table_of_results_has_these_figures(record):
    kept = json.loads(record.read_text())
    known = {f"{percent:.1f}" for figures in CONV4.values() for percent, _ in figures.values()}
    assert kept["paper"] in {"–", *known}


def test_a_figure_is_of_one_backbone():
    assert str(published("miniimagenet_5w1s", "prototypical", "conv4")) == (
        "Published: 49.42 % on test classes (Snell et al., 2017)."
    )
    assert published("miniimagenet_5w1s", "prototypical", "resnet12") is None
    assert published("glyphs_5w1s", "prototypical", "conv4") is None
