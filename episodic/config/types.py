"""Checks that every setting of a configuration has a value of its type. A type is declared once: in the signature of the class that
takes the setting, or in `config.settings`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union

from omegaconf import DictConfig, OmegaConf

from episodic.config.compose import INNER, ConfigError, groups
from episodic.config.help import options_of
from episodic.config.instantiate import known_targets, target_of
from episodic.config.overrides import SEVERAL, TAKE_SAVED
from episodic.config.settings import COMMANDS, Part, Shape, Task
from episodic.config.stored import REFERENCE

WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
MANY = {int: "integers", float: "numbers", str: "texts"}


def check_types(cfg: DictConfig, command: str | None = "train", *, allow_any_target: bool = False) -> None:
    """Refuse values of another type than their settings have: text in the place of a number, a number in the place of a list, NaN.
    Neither `true` nor 1.0 is an integer.

    **Arguments:** `command` (default `"train"`): whose settings the configuration has; None where it has parts alone.
    `allow_any_target` (default false): as for `make`; classes that may not be built are not asked for types.

    **Raises:** `ConfigError` that names the setting, the type and the value, or a setting that is missing.

    >>> check_types(OmegaConf.create({"seed": 1.5}))
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: seed must be an integer, got 1.5
    """
    tree = OmegaConf.to_container(cfg)
    # A command on a run has no part of its own where the run has one.
    _check_parts({key: value for key, value in tree.items() if value is not None or command not in TAKE_SAVED}, "")
    hints = {} if command is None else typing.get_type_hints(COMMANDS[command]) | {"task": Task}
    for place, value, hint in _typed(tree, hints, "", allow_any_target is True):
        if isinstance(value, str) and (REFERENCE.fullmatch(value) or value == "???"):
            continue  # what a reference to another setting stands for has a type itself
        if isinstance(value, str) and "${" in value:  # as what the environment says, which has none
            value = OmegaConf.select(cfg, place)
        if not fits(value, hint):
            raise ConfigError(f"{place} must be {words(hint)}, got {written(value)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value, such as YAML has, is of a type.

    >>> fits([5, 10], int | tuple[int, int]), fits(True, int), fits(float("nan"), float), fits(3, float)
    (True, False, False, True)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint in WORDS:
        return type(value) is hint and value != ""
    if origin in (list, Sequence, tuple) and inner:
        several = origin is not tuple or inner[-1] is Ellipsis
        fit = isinstance(value, list) and (several or len(value) == len(inner))
        return fit and all(fits(each, inner[0]) for each in value)
    return type(value) is hint or hint is Any


def words(hint: Any) -> str:
    """A type in words.

    >>> words(int | tuple[int, int] | None)
    'an integer, a list of 2 integers or null'
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        said = list(dict.fromkeys(filter(None, map(words, inner))))
        return " or ".join(filter(None, [", ".join(said[:-1]), said[-1]]))
    if origin is Literal:
        return ", ".join(map(str, inner[:-1])) + f" or {inner[-1]}" if len(inner) > 1 else str(inner[0])
    if origin in (list, Sequence, tuple) and inner:
        number = "" if origin is not tuple or inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {number}{MANY.get(inner[0], 'values')}"
    return WORDS.get(hint, "")


def written(value: Any) -> str:
    """A value as it is written in an option, with quotes around text.

    >>> written([True, None, "a"])
    "[true, null, 'a']"
    """
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    plain = {True: "true", False: "false", None: "null"}
    return plain[value] if value is None or isinstance(value, bool) else repr(value)


def _typed(tree: Mapping, hints: Mapping[str, Any], place: str, trusted: bool) -> Iterator[tuple[str, Any, Any]]:
    """Every value below `tree` that has a type, with its place and its type. What nothing reads is refused.

    `tree` is a part, with the types of its class; or settings, with theirs; or the parts of a group of which several are chosen.
    """
    is_part = "_target_" in tree
    for key, value in tree.items():
        here, hint = f"{place}.{key}".lstrip("."), hints.get(key)
        if key.startswith("_"):
            if key != "_target_" and not trusted:
                raise ConfigError(f"{here} is no setting of a part")
        elif not (is_part or key in hints or place in SEVERAL or key in groups()):
            raise ConfigError(f"{here} would have no effect here: nothing reads it")
        elif isinstance(value, Mapping) and "_target_" in value:
            yield from _typed(value, _hints_of(value, trusted), here, trusted)
        elif isinstance(value, Mapping) and not is_part and hint in (None, Task, Shape):
            yield from _typed(value, typing.get_type_hints(hint) if hint else {}, here, trusted)
        elif hint is not None:
            yield here, value, hint
    for key in () if is_part else hints:
        if key not in tree:
            raise ConfigError(f"{place}.{key} is missing".lstrip("."))


def _check_parts(tree: Mapping, place: str) -> None:
    """Refuse what is no choice in the place of one."""
    for key, value in tree.items():
        here = f"{place}.{key}".lstrip(".")
        several = key in SEVERAL and isinstance(value, Mapping) and bool(value)
        whole = all(_is_part(each) for each in value.values()) if several else _is_part(value) or key == "task"
        if key in (INNER if place else groups()) and not (whole and isinstance(value, Mapping)):
            raise ConfigError(f"{here} must be a choice of {key} ({', '.join(options_of(key))}), got {written(value)}")
        if isinstance(value, Mapping):
            _check_parts(value, here)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("_target_"), str)


def _hints_of(part: Mapping, trusted: bool) -> dict[str, Any]:
    """The types of the settings of a part: of the arguments of its class, and of what the assembly reads beside them."""
    if not trusted and part["_target_"] not in known_targets():
        return {}
    target = target_of(OmegaConf.create({"_target_": part["_target_"]}), allow_any_target=trusted)
    plain_class = isinstance(target, type) and not dataclasses.is_dataclass(target)
    try:
        hints = typing.get_type_hints(target.__init__ if plain_class else target)
    except NameError:  # a class of the user's own, with types that are only there for its type checker
        hints = {}
    return hints | typing.get_type_hints(Part)
