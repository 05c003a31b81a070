"""Reads a configuration that lies in a file. The file may come from a stranger, or be damaged, so it is data and nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from episodic.config.compose import ConfigError

MOST_BYTES = 2**16  # a run's configuration has about 4,000
DEEPEST = 16  # mappings and lists inside each other, or references one after the other; a run's configuration has 4
# The two forms of a value that stands for another one; Hydra knows others, which read the environment or call functions.
REFERENCE = re.compile(r"\$\{(?:oc\.select:([\w.]+),[\w.+-]+|([\w.]+))\}")


def read_tree(path: Path) -> dict[Any, Any]:
    """Read a YAML file that may come from a stranger. It is a mapping, with mappings, lists, texts and numbers in it.

    **Raises:** `FileNotFoundError` where there is none; `ConfigError` for a file that is no plain YAML, or holds something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "config.yaml"
    ...     file.write_text("steps: 10")
    ...     read_tree(file)
    9
    {'steps': 10}
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} is no configuration of a run: it has more than {MOST_BYTES:,} bytes")
    try:
        text = data.decode()
        _check_plain(text)
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def stored_config(tree: Any, source: object) -> DictConfig:
    """Make a configuration of what a file held: a tree of mappings, lists, texts and numbers. Nothing in it is trusted.

    A value may stand for another one of the same tree, as `${task.n_way}` does: for a single value or a list. References to
    anything else, such as the environment, are refused. `allow_any_target` is left out, since only the user can give trust.

    **Arguments:** `source`: where it comes from, for messages.

    **Raises:** `ConfigError` where `tree` is no mapping, is too deep, or has a key or a value that no configuration has.

    >>> stored_config({"ways": 5, "train": {"ways": "${ways}"}}, "example").train.ways
    5
    >>> stored_config({"home": "${oc.env:HOME}"}, "example")
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: example: home is '${oc.env:HOME}', which is no reference to another value of it
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} holds no configuration: it must be a mapping, and is {type(tree).__name__}")
    for place, value in _walk(tree, source):
        if isinstance(value, str) and "${" in value:
            _check_reference(tree, place, value, source)
    return OmegaConf.create({key: value for key, value in tree.items() if key != "allow_any_target"})


def _check_plain(text: str) -> None:
    """Refuse what YAML has beyond plain data, before anything is built. Anchors can make a few bytes expand to gigabytes."""
    depth, root = 0, None
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        root = root or (event if isinstance(event, yaml.NodeEvent) else None)
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError(f"line {event.start_mark.line + 1} has a tag, an anchor or an alias")
        starts, ends = (yaml.MappingStartEvent, yaml.SequenceStartEvent), (yaml.MappingEndEvent, yaml.SequenceEndEvent)
        depth += isinstance(event, starts) - isinstance(event, ends)
        if depth > DEEPEST:
            raise ValueError(f"line {event.start_mark.line + 1} is more than {DEEPEST} levels deep")
    if not isinstance(root, yaml.MappingStartEvent):
        raise ValueError("it holds no mapping of names to values")


def _walk(tree: Any, source: object) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values in `tree`, each after its place, with their form checked."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while todo:
        place, value = todo.pop()
        if len(place) > DEEPEST:
            raise ConfigError(f"{source} is more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            for key, inner in value.items():
                if not (isinstance(key, str) and key.isprintable()) or (key.startswith("_") and key != "_target_"):
                    raise ConfigError(f"{source}: {'.'.join(place) or 'the configuration'} has the key {key!r}")
                todo.append(((*place, key), inner))
        elif isinstance(value, list):
            todo += [((*place, str(i)), inner) for i, inner in enumerate(value)]
        elif value is None or isinstance(value, str | bool | int | float):
            yield place, value
        else:
            raise ConfigError(f"{source}: {'.'.join(place)} is {value!r}, which is neither text nor a number")


def _check_reference(tree: dict[str, Any], place: tuple[str, ...], value: str, source: object) -> None:
    """Refuse a reference in another form, to a part, from inside a list, to nothing, round in a circle or over many others, and
    one to a long list: each reference would be a copy of it.
    """
    told, seen, found = f"{source}: {'.'.join(place)} is {value!r}", set(), value
    in_list = isinstance(_at(tree, place[:-1]), list)
    while isinstance(found, str) and "${" in found:
        form = REFERENCE.fullmatch(found)
        if form is None or in_list:
            raise ConfigError(f"{told}, which is no reference to another value of it")
        with_default, plain = form.groups()
        name = with_default or plain
        found = _at(tree, name.split("."))
        if name in seen or len(seen) == DEEPEST or not _is_short(found):
            raise ConfigError(f"{told}, which is no reference to another value of it")
        if found is _ABSENT and plain:
            raise ConfigError(f"{told}, and there is no {name}")
        seen.add(name)


def _is_short(value: Any) -> bool:
    """Whether `value` is a single one, or a list of a few that are single."""
    few = isinstance(value, list) and len(value) <= DEEPEST and not any(isinstance(each, dict | list) for each in value)
    return few or not isinstance(value, dict | list)


_ABSENT = object()  # None is a value


def _at(tree: Any, place: Any) -> Any:
    for word in place:
        if isinstance(tree, list) and word.isdigit() and int(word) < len(tree):
            tree = tree[int(word)]
        elif isinstance(tree, dict) and word in tree:
            tree = tree[word]
        else:
            return _ABSENT
    return tree
