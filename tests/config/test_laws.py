"""Whatever an option, a value or a file holds is taken as what it says, or refused by a `ConfigError`, and by no other error."""

import copy
import math

import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from episodic.config.compose import ConfigError, compose_config
from episodic.config.overrides import check_overrides
from episodic.config.stored import read_tree, stored_config
from episodic.config.types import check_types

BASE = compose_config("train", ["loss=[circle,classifier]", "semi=soft_kmeans", "head=linear"])
OmegaConf.set_struct(BASE, False)


def places_of(node, before=()):
    """The places of all values below a node."""
    for key, value in node.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from places_of(value, (*before, key))


PLACES = sorted(places_of(OmegaConf.to_container(BASE)))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
WORDS = st.sampled_from(
    ["seed", "task", "n_way", "learner", "loss", "circle", "run", "abc", "1", "null", "true", "nan"]
)
SIGNS = st.sampled_from(list("=.,@+~[]{}()$:'\"\\ #%*"))


def refused(function, *arguments):
    """The message of the `ConfigError` that refuses the arguments; None where they are taken."""
    try:
        function(*arguments)
    except ConfigError as error:
        return str(error)
    return None


@given(st.sampled_from(PLACES), VALUES)
@settings(max_examples=400)
def test_a_setting_has_a_value_of_its_type_or_is_refused(place, value):
    cfg, key = copy.deepcopy(BASE), ".".join(place)
    before = OmegaConf.to_container(BASE)
    for word in place:
        before = before[word]
    assume(not (isinstance(value, str) and "${" in value))  # a reference has the type of what it stands for
    OmegaConf.update(cfg, key, value, merge=False)
    if refused(check_types, cfg) is not None:
        return
    if isinstance(before, bool):
        assert isinstance(value, bool | None)
    elif isinstance(before, dict):
        assert isinstance(value, dict)
    elif isinstance(before, int):
        assert not isinstance(value, bool | float | str | dict)
    elif isinstance(before, float):
        assert value is None or math.isfinite(value)
        assert not isinstance(value, bool)


@given(st.lists(WORDS | SIGNS, min_size=1, max_size=8).map("".join))
@settings(max_examples=150)
def test_an_option_is_taken_or_refused_in_a_few_words(option):
    said = refused(check_overrides, "train", [option])
    assert said is None or 0 < len(said.splitlines()) <= 3


@given(VALUES)
@settings(max_examples=300)
def test_any_tree_is_data_or_refused(tree):
    said = refused(stored_config, tree, "example")
    if said is None:
        assert "allow_any_target" not in OmegaConf.to_container(stored_config(tree, "example"), resolve=True)
    else:
        assert said.startswith("example")


@given(
    st.binary(max_size=60)
    | VALUES.map(yaml.dump).map(str.encode)
    | st.text(alphabet="a:-[]{}&*!|>'\"${}. \n#?%", max_size=40).map(str.encode)
)
@settings(max_examples=400)
def test_any_bytes_are_a_mapping_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    said = refused(read_tree, path)
    if said is None:
        assert isinstance(read_tree(path), dict)
    else:
        assert str(path) in said
        assert len(said.splitlines()) == 1


def test_the_places_are_those_of_a_training():
    assert len(PLACES) > 80
    assert refused(check_types, OmegaConf.merge(BASE, {"seed": "x"})) == "seed must be an integer, got 'x'"
