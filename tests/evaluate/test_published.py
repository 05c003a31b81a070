import json
from pathlib import Path

import pytest

from episodic.config.help import options_of
from episodic.evaluate.published import CONV4, published

RECORDS = Path(__file__).parents[2] / "scripts" / "results"


def test_all_names_are_options():
    assert set(CONV4) <= set(options_of("task"))
    assert {learner for figures in CONV4.values() for learner in figures} <= set(options_of("learner"))


@pytest.mark.parametrize(
    ("record", "learner"),
    [("protonet_omniglot_5w1s", "prototypical"), ("protonet_omniglot_20w1s", "prototypical"),
     ("matching_omniglot_5w1s", "matching"), ("matching_omniglot_20w1s", "matching"),
     ("protonet_miniimagenet_5w1s", "prototypical"), ("can_miniimagenet_5w1s", "cross_attention")],
)  # fmt: skip
def test_figures_are_those_of_the_table_of_results(record, learner):
    kept = json.loads((RECORDS / f"{record}.json").read_text())
    assert published(kept["task"], learner, "conv4").percent == pytest.approx(float(kept["paper"]), abs=0.05)


def test_a_figure_is_of_one_backbone():
    assert str(published("miniimagenet_5w1s", "prototypical", "conv4")) == (
        "Published: 49.42 % on test classes (Snell et al., 2017)."
    )
    assert published("miniimagenet_5w1s", "prototypical", "resnet12") is None
    assert published("glyphs_5w1s", "prototypical", "conv4") is None
