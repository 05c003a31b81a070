"""Builds the object that a node of a configuration describes by `_target_`. Hydra's `instantiate` is called nowhere else."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from episodic.config.compose import ConfigError, conf_dir, groups
from episodic.config.terminal import printable

TARGET = re.compile(r"\b_target_: *([\w.]+)")


@functools.cache
def known_targets(group: str | None = None) -> frozenset[str]:
    """The classes and functions that a configuration may build. They are those that the files of `conf/` name, and the optimizers
    of `torch.optim`.

    **Arguments:** `group` (default None): those of one group of `conf/`, such as `"learner"`; None for all.

    >>> sorted(known_targets("schedule"))
    ['episodic.train.schedule.Constant', 'episodic.train.schedule.Cosine', 'episodic.train.schedule.Step']
    """
    files = (conf_dir() / (group or ".")).rglob("*.yaml")
    found = {target for file in files for target in TARGET.findall(file.read_text(encoding="utf-8"))}
    if group in (None, "optimizer"):
        from torch import optim  # takes a second

        classes = {name: made for name, made in vars(optim).items() if isinstance(made, type)}
        found |= {f"torch.optim.{name}" for name, made in classes.items() if issubclass(made, optim.Optimizer)}
    return frozenset(found)


def make(node: DictConfig, *arguments: Any, allow_any_target: bool = False, **keywords: Any) -> Any:
    """Build the object that a node of a configuration describes. `_target_` names its class, and the other keys are its arguments.

    A configuration can come from a stranger's run. So a target must be among `known_targets`, and so must those inside of it.

    **Arguments:** `arguments`, `keywords`: further arguments of the target. `allow_any_target` (default false): allow every target.
    Only `True` itself does.

    **Raises:** `ConfigError` for a target that is not allowed, and for arguments that are missing or that the target does not take;
    what the target raises.

    >>> make(OmegaConf.create({"_target_": "episodic.train.schedule.Step", "every": 10})).every
    10
    >>> make(OmegaConf.create({"_target_": "os.system", "command": "ls"}))
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: the configuration wants to build os.system, which is no choice of this package. ...
    """
    if allow_any_target is not True:
        for _, target in _targets(node):
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


def _check_target(target: str, group: str | None = None) -> None:
    if target not in known_targets(group):
        raise ConfigError(
            f"the configuration wants to build {printable(target)}, which is no {group or 'choice'} of this package. If you trust "
            "where the configuration came from, add allow_any_target=true."
        )


def check_targets(cfg: DictConfig, *, allow_any_target: bool = False) -> None:
    """Refuse a configuration that wants something else in a place than its group of `conf/` has, as a data set in the place of a
    learner.

    **Arguments:** `allow_any_target` (default false): as for `make`.

    **Raises:** `ConfigError` that names the target.

    >>> check_targets(OmegaConf.create({"learner": {"_target_": "torch.nn.Identity"}}))
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: the configuration wants to build torch.nn.Identity, which is no learner of ...
    """
    if allow_any_target is True:
        return
    known = groups()
    for place, target in _targets(cfg):
        inside = [word for word in place.split(".") if word in known]
        _check_target(target, inside[-1] if inside else None)


def _targets(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The targets in a configuration, each after its place."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield place, str(node["_target_"])
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node[key], f"{place}.{key}".lstrip("."))
    elif isinstance(node, ListConfig):
        for child in node:
            yield from _targets(child, place)


def target_of(node: DictConfig, *, allow_any_target: bool = False) -> Any:
    """The class or function that `node` names, found without being called. It is checked as `make` checks it, since finding it
    imports the module that it is in.

    **Raises:** `ConfigError` for another target than `make` would build.

    >>> target_of(OmegaConf.create({"_target_": "episodic.train.schedule.Step"})).__name__
    'Step'
    """
    if allow_any_target is not True:
        _check_target(str(node._target_))
    return get_object(node._target_)


def arguments_of(node: DictConfig, *, allow_any_target: bool = False) -> set[str]:
    """The names of the arguments that the target of `node` takes.

    **Raises:** as `target_of`.

    >>> sorted(arguments_of(OmegaConf.create({"_target_": "episodic.train.schedule.Step"})))
    ['every', 'gamma']
    """
    return set(inspect.signature(target_of(node, allow_any_target=allow_any_target)).parameters)
