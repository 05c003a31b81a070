"""Each value has the type of its setting, or is refused in a line that names the setting, the type and the value."""

import copy
from collections.abc import Sequence
from typing import Literal

import pytest
from omegaconf import OmegaConf

from episodic.config.compose import INNER, ConfigError, compose_config, groups
from episodic.config.help import options_of
from episodic.config.types import check_types, fits, words, written

WRONG = {
    "seed": ["abc", 1.5, True, None, [1], float("nan"), "", {"a": 1}],
    "resume": ["maybe", "no", "yes", "true", 1, None],
    "run": [3, True, ["a"], ""],
    "episodes": ["abc", 1.5, True, None],
    "precision": ["fp64", 16, None],
    "allow_any_target": ["no", 1, None],
    "task.n_way": ["abc", 1.5, True, None, [5], [5, 10, 15], [5, "a"]],
    "task.train.n_shot": ["abc", None, 0.5],
    "task.labeled_fraction": [float("nan"), float("inf"), "abc", True, None],
    "task.folds": ["abc", 2.5],
    "task.too_small": ["maybe", None],
    "task.imbalanced": [1, "maybe"],
    "task.dataset.drawings": ["abc", 1.5],
    "task.dataset": [3, "glyphs", None, [1]],
    "backbone.widths": [64, [], "a", [64, "a"], [1.5], None],
    "backbone.pools": ["x", 1.5],
    "backbone": [3, "conv4", [1], {"widths": [8]}],
    "optimizer.lr": ["abc", True, None, float("nan"), [0.1]],
    "trainer.steps": [True, "abc", 1e3, None],
    "loss.circle.weight": ["abc", None, float("nan")],
    "loss.circle.distance": [3, "snr", {"x": 1}],
    "loss.circle.gamma": ["abc"],
    "loss": [3, [], {}],
    "semi": [{}, {"supervised": 3}],
}
PLACES = [
    (place, value) for place, values in WRONG.items() for value in values if (place, value) != ("backbone.widths", [])
]


@pytest.mark.parametrize(("place", "value"), PLACES, ids=lambda x: str(x))
def test_a_value_of_another_type_is_refused_with_its_place(place, value):
    cfg = compose_config("train", ["loss=circle"])
    OmegaConf.update(cfg, place, value, merge=False)
    with pytest.raises(ConfigError, match=rf"^{place}.* (must be|is missing|would have)") as caught:
        check_types(cfg)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in groups() for o in options_of(g) if g not in INNER])
def test_every_choice_of_conf_has_values_of_its_types(group, option):
    path = ["task.dataset.path=somewhere"] if option.startswith("folder") else []
    check_types(compose_config("train", [f"{group}={option}", *path]))


@pytest.mark.parametrize("group", sorted({*groups()} - {*INNER, "task", "experiment"}))
def test_every_setting_of_a_choice_has_a_type(group):
    """So that none takes just any value."""
    for option in options_of(group):
        cfg = compose_config("train", [f"{group}={option}"])
        part = f"{group}.{option}" if group in ("loss", "semi") else group
        for key in [key for key in OmegaConf.select(cfg, part) if not key.startswith("_")]:
            wrong = copy.deepcopy(cfg)
            OmegaConf.update(wrong, f"{part}.{key}", [[]], merge=False)
            with pytest.raises(ConfigError, match=rf"^{part}\.{key} must be"):
                check_types(wrong)


def test_settings_that_nothing_reads_are_refused():
    for place in ("note", "task.extra", "task.train.extra"):
        cfg = compose_config("train", [])
        OmegaConf.update(cfg, place, 3, force_add=True)
        with pytest.raises(ConfigError, match=f"{place} would have no effect here: nothing reads it"):
            check_types(cfg)
    cfg = compose_config("train", ["+learner._partial_=true"])
    with pytest.raises(ConfigError, match=r"learner\._partial_ is no setting of a part"):
        check_types(cfg)


def test_settings_that_are_missing_are_named():
    for place in ("seed", "task.n_way", "task.train.n_query"):
        cfg = compose_config("train", [])
        OmegaConf.set_struct(cfg, False)
        parent, _, key = place.rpartition(".")
        del (OmegaConf.select(cfg, parent) if parent else cfg)[key]
        with pytest.raises(ConfigError, match=f"{place} is missing"):
            check_types(cfg)


def test_classes_that_may_not_be_built_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "strange.py").write_text("class Thing:\n    def __init__(self, size: int): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = OmegaConf.create({"learner": {"_target_": "strange.Thing", "size": "abc"}})
    check_types(cfg, None)
    with pytest.raises(ConfigError, match=r"learner\.size must be an integer, got 'abc'"):
        check_types(cfg, None, allow_any_target=True)


@pytest.mark.parametrize(
    ("hint", "said", "right", "wrong"),
    [
        (int, "an integer", [3, 0, -1], [True, 1.0, "3", None, [3]]),
        (float, "a number", [3, 0.5], [True, "3", float("inf"), None]),
        (bool, "true or false", [True], [0, 1, "true", None]),
        (str, "text", ["a"], ["", 3, None]),
        (int | None, "an integer or null", [3, None], ["null", True]),
        (Sequence[int], "a list of integers", [[1], []], [1, [True], ["a"]]),
        (tuple[int, int], "a list of 2 integers", [[1, 2]], [[1], [1, 2, 3]]),
        (float | Literal["auto"] | None, "a number, auto or null", [0.5, "auto", None], ["none", True]),
        (Literal["a", "b", "c"], "a, b or c", ["a"], ["d", None]),
    ],
)
def test_types_in_words(hint, said, right, wrong):
    assert words(hint) == said
    assert all(fits(value, hint) for value in right)
    assert not any(fits(value, hint) for value in wrong)


def test_values_are_written_as_in_options():
    assert written({"a": 1}) == "{'a': 1}"
    assert written([True, None, "x", 0.5]) == "[true, null, 'x', 0.5]"


def test_what_the_environment_says_has_the_type_of_its_setting(monkeypatch):
    monkeypatch.setenv("ANSWER", "abc")
    check_types(compose_config("train", ["data_dir=${oc.env:ANSWER}", "run=runs/${oc.env:ANSWER}"]))
    with pytest.raises(ConfigError, match="seed must be an integer, got 'abc'"):
        check_types(compose_config("train", ["seed=${oc.env:ANSWER}"]))
