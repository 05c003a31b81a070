"""Builds the object that a node of a configuration describes by `_target_`. Hydra's `instantiate` is called nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from episodic.config.compose import ConfigError

ALLOWED = ("episodic", "torch", "torchvision", "timm")  # packages whose classes a configuration may instantiate
FUNCTIONS = ("episodic.", "torchvision.models.", "timm.models.")  # where functions may be called as well: no torch.load


def make(node: DictConfig, *arguments: Any, allow_any_target: bool = False, **keywords: Any) -> Any:
    """Build the object that a node of a configuration describes. `_target_` names its class, and the other keys are its arguments.

    A configuration can come from a stranger's run. So a target must be a class of this package, torch, torchvision or timm, or a
    function of this package or of the models of the last two.

    **Arguments:** `arguments`, `keywords`: further arguments of the target. `allow_any_target` (default false): allow every target.

    **Raises:** `ConfigError` for a target that is not allowed, and for arguments that are missing or that the target does not take;
    what the target raises.

    >>> node = OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 3})
    >>> make(node, out_features=2)
    Linear(in_features=3, out_features=2, bias=True)
    >>> make(OmegaConf.create({"_target_": "os.system", "command": "ls"}))
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: the configuration wants to call os.system; only classes of episodic, torch, ...
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


def target_of(node: DictConfig, *, allow_any_target: bool = False) -> Any:
    """The class or function that `node` names, found without being called. It is checked as `make` checks it, since finding it
    imports the module that it is in.

    **Raises:** `ConfigError` for another target than `make` would build.

    >>> target_of(OmegaConf.create({"_target_": "episodic.train.schedule.Step"})).__name__
    'Step'
    """
    if not allow_any_target:
        _check_target(str(node._target_))
    return get_object(node._target_)


def arguments_of(node: DictConfig, *, allow_any_target: bool = False) -> set[str]:
    """The names of the arguments that the target of `node` takes.

    **Raises:** as `target_of`.

    >>> sorted(arguments_of(OmegaConf.create({"_target_": "episodic.train.schedule.Step"})))
    ['every', 'gamma']
    """
    return set(inspect.signature(target_of(node, allow_any_target=allow_any_target)).parameters)
