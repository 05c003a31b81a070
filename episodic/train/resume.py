"""Goes on with a run: the options that it was started with come from its folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from episodic.config.compose import ConfigError, conf_dir
from episodic.config.overrides import composed, given_options, in_full
from episodic.config.paths import unquoted
from episodic.config.stored import REFERENCE
from episodic.run.run import Run

# What counts only where it is given, since a folder can come from a stranger: flags, trust, and Hydra's own settings.
OF_THE_COMMAND = re.compile(r"-|[+~]*(resume|run|allow_any_target|hydra)\b")


def with_saved_options(arguments: list[str]) -> list[str]:
    """Put the options that a run was started with before the arguments, where these say `resume=true`. An option that is given
    again takes the place of the old one. Without `run=` it is the newest run in `runs`.

    **Raises:** `ConfigError` where there is no such run, and for other choices of parts than it has. Other values are told by
    `Run.open`.

    >>> with_saved_options(["seed=1", "run=runs/a"])
    ['seed=1', 'run=runs/a']
    """
    given = given_options(map(in_full, arguments))
    if given.get("resume", "").lower() != "true":
        return arguments
    named = given.get("run", "null") != "null"
    folder = Path(given["run"]) if named else newest_folder(Path("runs"), ("config.yaml",))
    saved = _saved_options(folder)
    differ = _other_choices(saved, given)
    if differ:
        raise ConfigError(f"{folder} was started with other settings, so it cannot be resumed: {', '.join(differ)}")
    kept = [f"{name}={value}" for name, value in saved.items() if name not in given]
    return [*kept, *(a for a in arguments if named or not a.startswith("run=")), *([] if named else [f"run={folder}"])]


def newest_folder(place: Path, files: Sequence[str]) -> Path:
    """The folder in `place` of the run that was started, or gone on with, last: the one with the newest of `files`.

    **Raises:** `ConfigError` where there is none.
    """
    found = sorted((path for name in files for path in place.rglob(name)), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise ConfigError(f"there is no run in {place.resolve()} to go on with: give run=<dir>")
    return found[-1].parent


def _saved_options(folder: Path) -> dict[str, str]:
    """The options in a run's `config.yaml`, as they were typed, by name.

    **Raises:** `ConfigError` for options that a training cannot have been started with.
    """
    run = Run(folder)
    run.check_can_be_resumed()
    by_name = given_options(map(unquoted, checked_options(run.options(), folder / "config.yaml")))
    return {name: value for name, value in by_name.items() if not OF_THE_COMMAND.match(name)}


def checked_options(options: list[str], source: Path, *, sweep: bool = False) -> list[str]:
    """The options in a file that may come from a stranger.

    **Arguments:** `sweep` (default false): whether an option may have several values, one for each run.

    **Raises:** `ConfigError` for one with which no training can have been started.
    """
    for option in options:
        if "${" in REFERENCE.sub("", option) or (_is_sweep(option) and not sweep):
            raise ConfigError(f"{source} has the option {option}, with which no run is started")
    return options


def _is_sweep(option: str) -> bool:
    try:
        return OverridesParser.create().parse_override(option).is_sweep_override()
    except HydraException:
        return False  # told where all options are checked


def _other_choices(saved: dict[str, str], given: dict[str, str]) -> list[str]:
    """The choices of parts that are given and that the run does not have, each as `<part> was <choice>, now <choice>`."""
    chosen = [name for name in given if (conf_dir() / name.partition("@")[0]).is_dir()]
    if not chosen:
        return []
    search = [f"{name}={value}" for name, value in given.items() if name == "hydra.searchpath"]
    cfg, choices = composed("train", [*search, *(f"{name}={value}" for name, value in saved.items())])
    differ = []
    for name in chosen:
        now = OverridesParser.create().parse_override(f"{name}={given[name]}").value()
        place = name.partition("@")[2] or name
        # Where several are chosen, Hydra does not say which; their settings stand under their names.
        was = choices[name] if name in choices else list(OmegaConf.select(cfg, place, default=[]))
        if _listed(was) != _listed(now):
            differ.append(f"{name} was {_shown(was)}, now {_shown(now)}")
    return differ


def _listed(choice: object) -> list[str]:
    return [str(name) for name in (choice if isinstance(choice, list) else [choice])]


def _shown(choice: object) -> str:
    return "+".join(_listed(choice))
