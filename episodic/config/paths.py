"""Quotes the options that are files or folders, since their names may have characters that Hydra reads as something else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

# Options that are files or folders, whatever their names.
PATHS = ("data", "data_dir", "run", "init_from", "against", "support", "query", "unlabeled", "model", "out", "save")
PATHS += ("backbone.weights", "task.dataset.path", "sse.edges")


def quoted_arguments(arguments: list[str], prepare: Callable[[list[str]], list[str]]) -> list[str]:
    """The arguments as Hydra reads them: `prepare` is applied, and options that are paths are quoted. Where there are several runs
    (`-m`) commas separate paths, so nothing is quoted.

    >>> quoted_arguments(["run=runs/a, b", "seed=1"], list)
    ["run='runs/a, b'", 'seed=1']
    """
    flags = {"-m", "--multirun"}
    prepared = prepare(arguments if flags & {*arguments} else [unquoted(argument) for argument in arguments])
    return prepared if flags & {*prepared} else [quoted(argument) for argument in prepared]


def _path_of(argument: str) -> tuple[str, str] | None:
    name, found, value = argument.partition("=")
    return (name, value) if found and name in PATHS and value not in ("", "null") else None


def unquoted(argument: str) -> str:
    """An option that is a path, without the quotes around the path and with the user's home in the place of `~`. Any other argument
    stays as it is.

    >>> unquoted("run='runs/a b'")
    'run=runs/a b'
    """
    if (found := _path_of(argument)) is None:
        return argument
    name, value = found
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1].replace("\\" + value[0], value[0])
    return f"{name}={os.path.expanduser(value)}"


def quoted(argument: str) -> str:
    """A path in quotes: without them Hydra gives a meaning to commas, brackets, blanks, ..."""
    if (found := _path_of(argument)) is None:
        return argument
    name, value = found
    value = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)  # doubled before a quote only
    return f"{name}='{value}'"
