"""Checks the options of a command line. An unknown option is answered with those that exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from episodic.config.compose import INNER, ConfigError, compose_config, conf_dir, groups
from episodic.config.paths import quoted_arguments

SEVERAL = ("loss", "semi")  # groups of which several may be chosen, as loss=[a,b]
TAKE_SAVED = ("evaluate", "report", "predict", "demo")  # commands on a run, whose own parts are the choices `saved`


def check_overrides(name: str, overrides: list[str]) -> None:
    """Refuse options that a command's configuration does not have. The message names those that it has.

    **Arguments:** `name`: of the command, as in `conf/<name>.yaml`. `overrides`: options as on the command line.

    **Raises:** `ConfigError` for an unknown option, an unknown choice of a group, or text that is no `option=value`.

    >>> check_overrides("train", ["trainer.stps=10"])
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: unknown option 'trainer.stps'. Did you mean 'steps'?
    ...
    """
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        bad = [text for text in overrides if not _parses(text)] or overrides
        raise ConfigError(f"cannot read {bad[0]!r}; options are written as name=value") from None
    search = [o for o in parsed if o.key_or_group == "hydra.searchpath"]  # where a user keeps choices of their own
    folders = [conf_dir(), *(Path(folder.removeprefix("file://")) for o in search for folder in _values(o))]
    options = {g: sorted(p.stem for folder in folders for p in (folder / g).glob("[!_]*.yaml")) for g in groups()}
    chosen = [o for o in parsed if o.key_or_group.split("@")[0] in options]
    for override in parsed:
        if override.is_delete():
            raise ConfigError(
                f"{override.input_line} would take an option away; every option has a value, so give another one"
            )
        if not override.key_or_group:
            raise ConfigError(f"cannot read {override.input_line!r}; options are written as name=value")
    for override in chosen:
        _check_choice(override, options[override.key_or_group.split("@")[0]], name)
    try:
        base = compose_config(name, [o.input_line for o in (*search, *chosen) if not o.is_sweep_override()])
        for override in parsed:
            key = override.key_or_group
            if override not in chosen and not key.startswith("hydra") and not override.is_add():
                check_key(base, key)
        cfg = compose_config(name, [o.input_line for o in parsed if not o.is_sweep_override()])
        OmegaConf.to_container(cfg, resolve=True)  # so that references that lead nowhere are told here
    except (HydraException, OmegaConfBaseException) as error:
        refer = [o.input_line for o in parsed if "${" in (o.input_line or "")]
        raise ConfigError(": ".join([*refer, str(error).splitlines()[0]])) from None


def refuse_several(overrides: list[str]) -> None:
    """Refuse options with several values, which only a sweep can have.

    **Raises:** `ConfigError`.

    >>> refuse_several(["seed=0,1"])
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: seed=0,1 has several values: add -m for a run of each, or write a list as [a,b]
    """
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line} has several values: add -m for a run of each, or write a list as [a,b]"
            )


def in_full(argument: str, name: str = "train") -> str:
    """An option as Hydra wants it. A choice inside a part, such as a loss's distance, gets Hydra's `group@place=option`.

    For commands on a run the parts are those of the run, which have no groups any more. There the settings of the option take the
    place.

    >>> in_full("loss.circle.distance=snr")
    'distance@loss.circle.distance=snr'
    """
    key, found, value = argument.partition("=")
    group = key.rpartition(".")[2]
    inside = found and "." in key and "@" not in key and (conf_dir() / group / f"{value}.yaml").is_file()
    if not inside or value.startswith("_"):
        return argument
    if name not in TAKE_SAVED:
        return f"{group}@{argument}"
    option = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{value}.yaml"))
    return f"{key}={{{','.join(f'{k}:{v}' for k, v in option.items())}}}"


def given_options(arguments: Iterable[str]) -> dict[str, str]:
    """The options among the arguments of a command line, as they are typed, by name; flags are left out.

    >>> given_options(["--cfg", "job", "run=runs/a", "task.n_way=3"])
    {'run': 'runs/a', 'task.n_way': '3'}
    """
    return dict(argument.split("=", 1) for argument in arguments if "=" in argument)


def refuse_unread(arguments: Iterable[str], unread: Mapping[str, str]) -> None:
    """Refuse options that a command does not read.

    **Arguments:** `unread`: an option, or an option with a value, and the reason why it has no effect.

    **Raises:** `ConfigError` for the first such argument.

    >>> refuse_unread(["trainer.steps=10"], {"trainer": "nothing is trained"})
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: trainer.steps would have no effect here: nothing is trained
    """
    for argument in arguments:
        key, found, _ = argument.lstrip("+~").partition("=")
        for name, reason in unread.items():
            if found and (key == name or key.startswith(f"{name}.")):
                raise ConfigError(f"{key} would have no effect here: {reason}")


def composed(name: str, options: list[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration that `conf/<name>.yaml` and some options make, and which option each group has. Unlike `compose_config` it
    checks the options first, and takes paths of any names.

    **Raises:** `ConfigError`, as `check_overrides`.

    >>> cfg, choices = composed("train", ["schedule=cosine", "run=runs/a, b"])
    >>> cfg.run, choices["schedule"]
    ('runs/a, b', 'cosine')
    """
    options = [in_full(option, name) for option in quoted_arguments(options, list)]
    check_overrides(name, options)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(name, overrides=options, return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), choices


def _check_choice(override: Override, options: list[str], name: str) -> None:
    """Refuse what is no choice of a group: unknown ones, none at all, and several where one is taken."""
    key, group = override.key_or_group, override.key_or_group.split("@")[0]
    value = None if override.is_sweep_override() else override.value()
    if isinstance(value, list) and (not value or group not in SEVERAL or len(set(value)) < len(value)):
        wanted = "different ones" if group in SEVERAL and value else "one or several" if group in SEVERAL else "one"
        raise ConfigError(f"{override.input_line}: choose {wanted}.\nValid: {', '.join(options)}")
    for value in _values(override):
        if value not in options and not (value == "saved" and name in TAKE_SAVED):
            raise ConfigError(_unknown(f"{key}={'null' if value == 'None' else value}", value, options, "Valid: "))


def _parses(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_iterator()]
    value = override.value()
    return [str(v) for v in (value if isinstance(value, list) else [value])]


def check_key(base: DictConfig, key: str) -> None:
    """Refuse an option that a configuration does not have. `key` is its place, as `trainer.steps`.

    **Raises:** `ConfigError` with the options that `base` has there.
    """
    node = base
    for depth, part in enumerate(key.split(".")):
        if isinstance(node, ListConfig):
            return
        if not isinstance(node, DictConfig):
            parent = ".".join(key.split(".")[:depth])
            raise ConfigError(f"unknown option {key!r}: {parent!r} is a single value, written as {parent}=value")
        if part not in list(node):  # `in node` denies keys whose value is missing
            options = sorted(str(k) for k in node if not str(k).startswith("_"))
            options = sorted({*options, *groups()} - set(INNER)) if depth == 0 else options
            raise ConfigError(_unknown(f"option {key!r}", part, options, "Options: "))
        node = OmegaConf.select(node, part, throw_on_missing=False) if not OmegaConf.is_missing(node, part) else None


def _unknown(what: str, word: str, options: list[str], lead: str) -> str:
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f"unknown {what}." + (f" Did you mean {close[0]!r}?" if close else "") + f"\n{lead}{', '.join(options)}"
