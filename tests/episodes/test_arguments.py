import re
import typing

import numpy as np
import pytest
import torch

from episodic.episodes.arguments import (
    booleans,
    choice,
    file_path,
    flag,
    instance,
    integer,
    integers,
    number,
    numbers,
    strings,
)

SIDES = typing.Literal["left", "right"]
CHANNELS = typing.Literal[1, 3]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_integers_of_any_kind_become_an_int(value):
    assert type(integer("n", value)) is int
    assert integer("n", value, at_least=3, below=4) == choice("n", value, CHANNELS) == 3
    assert type(number("n", value)) is float


def test_an_integer_may_have_any_size():
    assert integer("seed", 10**400) == 10**400
    with pytest.raises(ValueError, match="lr must be a finite number, got 1000"):
        number("lr", 10**400)


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        ({"at_least": 1}, "a number, at least 1, got", [1, 2], [0, 0.99]),
        ({"above": 0}, "a number, above 0, got", [1e-9], [0, -1]),
        ({"above": 0, "at_most": 1}, "a number, above 0 and at most 1, got", [0.1, 1], [0, 1.01]),
        ({"at_least": 0, "below": 1, "note": " (0 is none)"}, "at least 0 and below 1 (0 is none), got", [0, 0.9], [1]),
    ],
)
def test_bounds_are_those_that_the_message_says(bounds, words, inside, outside):
    for value in inside:
        assert number("x", value, **bounds) == value
    for value in outside:
        with pytest.raises(ValueError, match=re.escape(words)):
            number("x", value, **bounds)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, torch.tensor(np.nan), "1", None, True, 1j, [1.0]])
def test_what_is_no_number_is_none(value):
    for check in (number, integer):
        with pytest.raises(ValueError, match=r"^x must be a"):
            check("x", value)


def test_flags_choices_paths_and_objects(tmp_path):
    assert flag("x", np.True_) is flag("x", torch.tensor(True)) is True
    assert choice("side", np.str_("left"), SIDES) == "left"
    assert file_path("root", str(tmp_path)) == file_path("root", tmp_path) == tmp_path
    assert instance("x", 3, int | str) == 3
    assert strings("x", ("a", "b")) == ("a", "b")
    for call, message in [
        (lambda: flag("x", 1), "x must be true or false, got 1"),
        (lambda: choice("side", "up", SIDES), "side must be one of left, right, got 'up'"),
        (lambda: choice("channels", True, CHANNELS), "channels must be one of 1, 3, got True"),
        (lambda: file_path("root", b"x"), "root must be a path, got b'x'"),
        (lambda: instance("x", None, int | str), "x must be an int or a str, got None"),
        (lambda: strings("x", "ab"), "x must be a list of strings, got 'ab'"),
        (lambda: strings("x", ["a", ""]), "x must be a list of strings, got ['a', '']"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


def test_no_item_of_a_data_set_is_loaded_to_refuse_it():
    class Loaded(list):
        def __getitem__(self, index):
            assert index == 0, "a second item was loaded"
            return (torch.zeros(3), 0)

        def __iter__(self):
            raise AssertionError("all items were loaded")

    with pytest.raises(ValueError, match="labels must be a flat list of integers, got"):
        integers("labels", Loaded([None] * 5))


def test_arrays_are_told_by_type_and_shape_and_long_lists_by_length():
    for call, shown in [
        (lambda: integers("y", np.zeros((2, 3))), r"got float64 \[2, 3\]"),
        (lambda: integers("y", torch.zeros(4)), r"got float32 \[4\]"),
        (lambda: integers("y", [0.5] * 500), r"got \[0.5, 0.5, .*\] \(500 long\)"),
        (lambda: booleans("mask", [True] * 9, length=10), r"of 10 booleans.* \(9 long\)"),
        (lambda: numbers("std", [1, 0], above=0), r"finite numbers, above 0, got \[1, 0\]"),
        (lambda: integers("y", ["x" * 10_000, "y\n"]), r"^.{0,200}$"),
    ]:
        with pytest.raises(ValueError, match=shown):
            call()
    assert integers("y", []).dtype == np.int64
