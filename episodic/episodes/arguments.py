"""Checks of arguments. Each function gives back the argument as a plain value of its type, or says in one line what it must be.

Constructors check each argument in one line, so all parts of the package take and refuse the same values. Scalars of NumPy and
torch count as the numbers that they hold. A boolean is no number, 2.0 is no integer, and a string is neither.
"""

from __future__ import annotations

import math
import os
import reprlib
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from torch import Tensor

LARGEST = np.iinfo(np.int64).max
SHOWN = 80  # characters of a value that a message quotes
Kind = TypeVar("Kind")
QUOTED = (
    bool | int | float | complex | str | bytes | list | tuple | dict | set | None | np.generic | np.ndarray | Tensor
)


def integer(name: str, value: Any, *, at_least: float = -math.inf, below: float = math.inf, note: str = "") -> int:
    """An integer in the bounds, as an `int`. NumPy's and torch's integers are taken too.

    **Arguments:** `name`: what the message calls the argument. `note`: what it adds to the bounds.

    **Raises:** `ValueError` for everything else, also for 2.0 and True.

    >>> integer("n_way", np.int64(5), at_least=1)
    5
    >>> integer("n_way", 2.0, at_least=1)
    Traceback (most recent call last):
    ...
    ValueError: n_way must be an integer, at least 1, got 2.0
    """
    plain = _plain(value)
    if isinstance(plain, int) and not isinstance(plain, bool) and at_least <= plain < below:
        return int(plain)
    refuse(name, "an integer" + _bounds({"at least": at_least, "below": below}) + note, value)


def number(
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    note: str = "",
) -> float:
    """A finite number in the bounds, as a `float`. Integers are taken too.

    **Arguments:** as of `integer`. A value may be equal to `at_least` and `at_most`, not to `above` and `below`.

    **Raises:** `ValueError` for everything else, also for NaN, infinity, strings and True.

    >>> number("lr", 3, above=0)
    3.0
    >>> number("fraction", float("nan"), above=0, at_most=1)
    Traceback (most recent call last):
    ...
    ValueError: fraction must be a number, above 0 and at most 1, got nan
    """
    plain = _plain(value)
    finite = isinstance(plain, int | float) and not isinstance(plain, bool) and abs(plain) <= sys.float_info.max
    if finite and at_least <= plain <= at_most and above < plain < below:
        return float(plain)
    bounds = _bounds({"above": above, "at least": at_least, "below": below, "at most": at_most})
    refuse(name, ("a number" if bounds else "a finite number") + bounds + note, value)


def flag(name: str, value: Any) -> bool:
    """True or False. NumPy's and torch's booleans are taken too.

    **Raises:** `ValueError` for everything else, also for 0, 1 and strings.

    >>> flag("flip", np.True_)
    True
    >>> flag("flip", "no")
    Traceback (most recent call last):
    ...
    ValueError: flip must be true or false, got 'no'
    """
    plain = _plain(value)
    return plain if isinstance(plain, bool) else refuse(name, "true or false", value)


def choice(name: str, value: Any, choices: Any) -> Any:
    """One of some strings or integers.

    **Arguments:** `choices`: the `Literal` that annotates the argument, or a sequence where they are known only at run time.

    **Raises:** `ValueError` for everything else.

    >>> choice("resize", "stretch", typing.Literal["crop", "squash"])
    Traceback (most recent call last):
    ...
    ValueError: resize must be one of crop, squash, got 'stretch'
    """
    options, plain = typing.get_args(choices) or choices, _plain(value)
    for option in options:
        if type(plain) is type(option) and plain == option:
            return option
    refuse(name, f"one of {', '.join(map(str, options))}", value)


def integers(name: str, value: Any, *, at_least: int | None = None) -> np.ndarray:
    """A flat array of integers `[N]`, as int64. Lists, tuples, arrays, tensors and columns of tables are taken.

    **Raises:** `ValueError` for anything else, also for floats, booleans, strings, and generators, which have no length.

    >>> integers("labels", (3, 1, 3))
    array([3, 1, 3])
    >>> integers("labels", ["cat", "dog"])
    Traceback (most recent call last):
    ...
    ValueError: labels must be a flat list of integers, got ['cat', 'dog']
    """
    array = flat_array(value)
    if array is not None and len(array) == 0:
        return np.empty(0, np.int64)
    fits = array is not None and array.dtype.kind in "iu" and array.max() <= LARGEST
    if fits and (at_least is None or array.min() >= at_least):
        return array.astype(np.int64, copy=False)
    refuse(name, "a flat list of integers" + ("" if at_least is None else f" from {at_least}"), value)


def booleans(name: str, value: Any, length: int) -> np.ndarray:
    """A mask: a flat array of `length` booleans. Lists, tuples, arrays, tensors and columns of tables are taken.

    **Raises:** `ValueError` for anything else, also for 0 and 1, which might be indices.

    >>> booleans("labeled", [True, False], length=2)
    array([ True, False])
    >>> booleans("labeled", [0, 1], length=2)
    Traceback (most recent call last):
    ...
    ValueError: labeled must be a flat list of 2 booleans, one an item, got [0, 1]
    """
    array = flat_array(value)
    if array is not None and array.dtype == bool and len(array) == length:
        return array
    refuse(name, f"a flat list of {length} booleans, one an item", value)


def numbers(name: str, value: Any, *, above: float = -math.inf) -> tuple[float, ...]:
    """A tuple of finite numbers, at least one. Lists, tuples, arrays, tensors and columns of tables are taken.

    **Raises:** `ValueError` for anything else, and for numbers that are not above the bound.

    >>> numbers("std", np.array([0.5, 1]), above=0)
    (0.5, 1.0)
    """
    array = flat_array(value)
    fits = array is not None and array.dtype.kind in "iuf" and len(array)
    if fits and np.isfinite(array).all() and (array > above).all():
        return tuple(array.astype(float).tolist())
    refuse(name, "a flat list of finite numbers" + _bounds({"above": above}), value)


def strings(name: str, value: Any) -> tuple[str, ...]:
    """A tuple of strings that are not empty. Lists and tuples are taken.

    **Raises:** `ValueError` for anything else, also for a single string.

    >>> strings("options", ["learner.temperature=64"])
    ('learner.temperature=64',)
    """
    if isinstance(value, list | tuple) and all(isinstance(text, str) and text for text in value):
        return tuple(map(str, value))
    refuse(name, "a list of strings", value)


def flat_array(value: Any) -> np.ndarray | None:
    """A value as an array of one axis, of any type; None where it is something else. Whether a list is nested is told by its first
    item alone, so that no data set is loaded.

    >>> flat_array(("cat", "dog")).dtype.kind, flat_array([[1, 2], [3]])
    ('U', None)
    """
    if isinstance(value, str | bytes) or not (isinstance(value, Sequence) or hasattr(value, "__array__")):
        return None
    if isinstance(value, Sequence) and len(value) and not isinstance(value[0], str) and isinstance(value[0], Sequence):
        return None
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # of unequal parts, or of a type that NumPy does not have
        return None
    return array if array.ndim == 1 else None


def file_path(name: str, value: Any) -> Path:
    """The path of a file or folder, given as a string or a path. `~` stands for the user's own folder.

    **Raises:** `ValueError` for everything else, also for bytes.

    >>> file_path("root", "/data").name
    'data'
    """
    named = isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str)
    return Path(value).expanduser() if named else refuse(name, "a path", value)


def instance(name: str, value: Any, kind: type[Kind] | types.UnionType) -> Kind:
    """An object of the class `kind`.

    **Raises:** `ValueError` for everything else, also for the class itself.

    >>> instance("episodes", range(3), list)
    Traceback (most recent call last):
    ...
    ValueError: episodes must be a list, got a range
    """
    kinds = typing.get_args(kind) or (kind,)
    return value if isinstance(value, kind) else refuse(name, " or ".join(_one(k.__name__) for k in kinds), value)


def refuse(name: str, wanted: str, value: Any) -> NoReturn:
    """Say what an argument must be, and what came. The message is one line.

    **Raises:** `ValueError`, always.

    >>> refuse("dataset", "a data set with a length", iter([]))
    Traceback (most recent call last):
    ...
    ValueError: dataset must be a data set with a length, got a list_iterator
    """
    raise ValueError(f"{name} must be {wanted}, got {_shown(value)}") from None


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim:
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if not isinstance(value, QUOTED):
        return _one(type(value).__name__)
    text = " ".join(reprlib.repr(value).split())
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"{text} ({len(value)} long)" if isinstance(value, list | tuple) and len(value) > 6 else text


def _one(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"


def _bounds(bounds: dict[str, float]) -> str:
    words = [f"{word} {bound}" for word, bound in bounds.items() if abs(bound) < math.inf]
    return f", {' and '.join(words)}" if words else ""


def _plain(value: Any) -> Any:
    """What a scalar of NumPy or torch holds; anything else as it is."""
    scalar = isinstance(value, np.generic | np.ndarray | Tensor) and value.ndim == 0
    return value.item() if scalar else value
