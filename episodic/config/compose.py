"""From the command line to built objects: composition by Hydra, errors for people, one place that instantiates."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

ALLOWED = ("episodic", "torch", "torchvision", "timm")  # packages whose classes a configuration may instantiate
FUNCTIONS = ("episodic.", "torchvision.models.", "timm.models.")  # where functions may be called as well: no torch.load
# Options that are files or folders, whatever their names.
PATHS = ("data", "data_dir", "run", "start", "against", "support", "query", "unlabeled", "model", "out", "save")
PATHS += ("backbone.weights", "task.dataset.path", "sse.edges")
TAKE_SAVED = ("evaluate", "report", "predict", "demo")  # commands on a run, whose own parts are the choices `saved`


class ConfigError(ValueError):
    """A command line or configuration that cannot be used; the message is for the user."""


def conf_dir() -> Path:
    """The folder of configurations: `conf/` of a source checkout, else the copy inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent / "conf"
    return checkout if (checkout / "train.yaml").exists() else package / "conf"


def command(
    name: str, function: Callable[[DictConfig], None], prepare: Callable[[list[str]], list[str]] = list
) -> None:
    """Run `function` on the configuration that `conf/<name>.yaml` and the command line make (Hydra's flags work:
    `--help`, `--cfg job`, `-m`).

    `prepare` may change the arguments first. Errors that a user can mend are printed in a line or two, without a traceback
    (set EPISODIC_TRACEBACK=1 to see it); the exit code is then 2.
    """

    def run(cfg: DictConfig) -> None:
        _guarded(name, function, cfg)

    def start() -> None:
        arguments = prepared(sys.argv[1:], prepare)
        after_flag = zip([None, *arguments], arguments, strict=False)  # `--cfg job`: the word belongs to the flag
        is_flag = [a.startswith("-") or ("=" not in a and (b or "").startswith("-")) for b, a in after_flag]
        check_overrides(name, [a for a, flag in zip(arguments, is_flag, strict=True) if not flag])
        sys.argv[1:] = arguments

    _guarded(name, start)
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(run)()


def prepared(arguments: list[str], prepare: Callable[[list[str]], list[str]]) -> list[str]:
    """What `prepare` makes of the arguments, for Hydra; paths may have any names, but where commas separate several runs."""
    if not {"-m", "--multirun"}.isdisjoint(arguments):
        return prepare(arguments)
    return [_quoted(argument) for argument in prepare([bare(argument) for argument in arguments])]


def _path_of(argument: str) -> tuple[str, str] | None:
    name, found, value = argument.partition("=")
    return (name, value) if found and name in PATHS and value not in ("", "null") else None


def bare(argument: str) -> str:
    """A path as it is meant: without quotes, and with the user's home in place of `~`."""
    if (found := _path_of(argument)) is None:
        return argument
    name, value = found
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1].replace("\\" + value[0], value[0])
    return f"{name}={os.path.expanduser(value)}"


def _quoted(argument: str) -> str:
    """A path in quotes: without them Hydra gives a meaning to commas, brackets, blanks, ..."""
    if (found := _path_of(argument)) is None:
        return argument
    name, value = found
    value = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)  # doubled before a quote only
    return f"{name}='{value}'"


def _guarded(name: str, function: Callable, *arguments: Any) -> None:
    try:
        function(*arguments)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        if os.environ.get("EPISODIC_TRACEBACK"):
            raise
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        print(f"episodic.{name}: {reason}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"episodic.{name}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def compose_config(name: str, overrides: list[str]) -> DictConfig:
    """The configuration `conf/<name>.yaml` with `overrides`, without Hydra's own part."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, overrides=overrides)


def check_overrides(name: str, overrides: list[str]) -> None:
    """Refuse what the configuration does not have, with the names that it has.

    **Raises:** `ConfigError` for an unknown option, an unknown choice of a group, or text that is no `option=value`.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        bad = [text for text in overrides if not _parses(text)] or overrides
        raise ConfigError(f"cannot read {bad[0]!r}; options are written as name=value") from None
    search = [o for o in parsed if o.key_or_group == "hydra.searchpath"]  # where a user keeps choices of their own
    folders = [conf_dir(), *(Path(folder.removeprefix("file://")) for o in search for folder in _values(o))]
    groups = {g: sorted(p.stem for folder in folders for p in (folder / g).glob("[!_]*.yaml")) for g in _groups()}
    chosen = [o for o in parsed if o.key_or_group.split("@")[0] in groups]
    for override in chosen:
        options = groups[override.key_or_group.split("@")[0]]
        for value in _values(override):
            if value not in options and not (value == "saved" and name in TAKE_SAVED) and value != "None":
                raise ConfigError(_unknown(f"{override.key_or_group}={value}", value, options, "Valid: "))
    try:
        base = compose_config(name, [o.input_line for o in (*search, *chosen) if not o.is_sweep_override()])
        for override in parsed:
            key = override.key_or_group
            if override not in chosen and not key.startswith("hydra") and not override.is_add():
                check_key(base, key)
        compose_config(name, [o.input_line for o in parsed if not o.is_sweep_override()])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def _parses(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def _groups() -> list[str]:
    return sorted(p.name for p in conf_dir().iterdir() if p.is_dir())


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_iterator()]
    value = override.value()
    return [str(v) for v in (value if isinstance(value, list) else [value])]


def check_key(base: DictConfig, key: str) -> None:
    """**Raises:** `ConfigError` where `base` has no option `key`, with those that it has."""
    node = base
    for depth, part in enumerate(key.split(".")):
        if isinstance(node, ListConfig):
            return
        if not isinstance(node, DictConfig) or part not in list(node):  # `in node` denies keys whose value is missing
            options = sorted(str(k) for k in node) if isinstance(node, DictConfig) else []
            options = sorted({*options, *_groups()} - {"dataset"}) if depth == 0 else options
            raise ConfigError(_unknown(f"option {key!r}", part, options, "Options: "))
        node = OmegaConf.select(node, part, throw_on_missing=False) if not OmegaConf.is_missing(node, part) else None


def _unknown(what: str, word: str, options: list[str], lead: str) -> str:
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f"unknown {what}." + (f" Did you mean {close[0]!r}?" if close else "") + f"\n{lead}{', '.join(options)}"


def make(node: DictConfig, *arguments: Any, allow_any_target: bool = False, **keywords: Any) -> Any:
    """The object that `node` describes by `_target_`; the only call of Hydra's `instantiate`.

    A configuration can come from a stranger's run directory, so a target must be a class of this package, torch,
    torchvision or timm, or a function of this package or of the models of the last two, unless `allow_any_target`.

    **Raises:** `ConfigError` for another target, or arguments that the target does not take; whatever the target raises.
    """
    if not allow_any_target:
        for target in _targets(node):
            _check_target(target)
    try:
        return instantiate(node, *arguments, _convert_="all", **keywords)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} must be given, as {error.full_key}=...") from None
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | OSError | ImportError):
            raise cause from None
        raise ConfigError(str(cause or error).splitlines()[0]) from error


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield str(node["_target_"])
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node[key])
    elif isinstance(node, ListConfig):
        for child in node:
            yield from _targets(child)


def _check_target(target: str) -> None:
    if target.split(".")[0] in ALLOWED:
        try:
            found = get_object(target)
        except Exception as error:
            raise ConfigError(f"no such target: {target} ({str(error).splitlines()[0]})") from None
        # Where it is defined counts, not the path: `torch.os.system` is a path into torch as well.
        home = f"{getattr(found, '__module__', None)}."
        if home.startswith(FUNCTIONS) or (isinstance(found, type) and home.split(".")[0] in ALLOWED):
            return
    raise ConfigError(
        f"the configuration wants to call {target}; only classes of {', '.join(ALLOWED)} may be built. "
        "If you trust it, add allow_any_target=true."
    )
