"""Refuses settings without effect: a setting that was given by hand must be read by one of the chosen parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from episodic.config.compose import ConfigError
from episodic.core.transforms.transform import AbstractTransform
from episodic.core.transforms.unit import Unit
from episodic.learners.learner import AbstractLearner
from episodic.learners.matching import Matching
from episodic.semi.wrapper import AbstractWrapper, unwrapped


def refuse_idle(overrides: Iterable[str], parts: Mapping[str, Any], idle: Mapping[str, str] | None = None) -> None:
    """Refuse settings that were given by hand and that the built parts do not read. A part says which these are in its attribute
    `without_effect`: setting -> the reason.

    **Arguments:** `overrides`: as on the command line. `parts`: built objects by the place of their settings, e.g. `loss.circle`.
    `idle` (default none): further settings, with the reason; a group stands for all of its settings.

    **Raises:** `ConfigError` that names the first such setting and the reason.

    >>> from episodic.core.distances.cosine import Cosine
    >>> from episodic.core.losses.triplet import Triplet
    >>> refuse_idle(["loss.triplet.normalize=false"], {"loss.triplet": Triplet(distance=Cosine())})
    Traceback (most recent call last):
    ...
    episodic.config.compose.ConfigError: loss.triplet.normalize would have no effect here: Cosine ignores the length of vectors
    """
    reasons = dict(idle or {})
    for prefix, part in parts.items():
        reasons |= {f"{prefix}.{key}": reason for key, reason in getattr(part, "without_effect", {}).items()}
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").rpartition("@")[2]
        for name, reason in reasons.items():
            if key == name or key.startswith(f"{name}."):
                raise ConfigError(f"{key} would have no effect here: {reason}")


def parts_of(cfg: DictConfig, learner: AbstractLearner) -> dict[str, Any]:
    """The learner, its wrappers and its backbone, by the place of their settings in the configuration."""
    layers = unwrapped(learner)
    inner, backbone = layers[-1], getattr(layers[-1], "backbone", None)
    backbone = backbone.body if isinstance(backbone, AbstractTransform) else backbone
    names = [name for name in cfg.semi if name != "supervised"]
    parts = {f"semi.{name}": layer for name, layer in zip(names, reversed(layers[:-1]), strict=True)}
    return parts | {"learner": inner, "head": backbone, "backbone": getattr(backbone, "body", backbone)}


def idle_in_learner(cfg: DictConfig, learner: AbstractLearner) -> dict[str, str]:
    """The choice and settings of the learner, where a wrapper uses its embedding only. The result is setting -> the reason."""
    takers = [layer for layer in unwrapped(learner) if getattr(layer, "takes_embedding_alone", False)]
    reason = f"semi={'+'.join(cfg.semi)} takes the learner's embedding alone, whatever learner= is"
    return {"learner": reason} if takers else {}


def idle_transform(learner: AbstractLearner) -> dict[str, str]:
    """The choice of unit length, where the learner compares directions alone. The result is setting -> the reason."""
    inner = unwrapped(learner)[-1]
    distance = getattr(inner, "distance", None)
    alone = isinstance(getattr(inner, "backbone", None), Unit) and getattr(inner, "context", None) is None
    if not (alone and isinstance(inner, Matching) and distance.ignores_length):
        return {}
    return {"transform": f"{type(distance).__name__} ignores the length of vectors"}


def idle_in_task(task: DictConfig) -> dict[str, str]:
    """Settings of a task that have an effect only together with another one, which is not set. The result is setting -> the
    reason.
    """
    idle = {}
    if task.labeled_fraction == 1:
        idle["task.labeled_seed"] = "all training images are labeled (task.labeled_fraction=1)"
    if task.fold is None:
        idle["task.folds"] = "no fold is chosen (task.fold)"
    if task.base_way == 0:
        reason = "the task is not incremental (task.base_way=0)"
        idle |= {"task.base_query": reason, "task.held_out": reason}
    for prefix, shape in (("task", task), ("task.train", task.train)):
        if shape.n_unlabeled in (0, [0, 0]):
            idle[f"{prefix}.n_distractors"] = f"distractors give unlabeled items only, and {prefix}.n_unlabeled is 0"
    return idle


def check_wrappers_answer(override: str, parts: Mapping[str, Any]) -> None:
    """**Raises:** `ConfigError` where `override`, semi=..., puts a wrapper around a trained run that only training knows."""
    for place, part in parts.items():
        name = place.rpartition(".")[2]
        if place.startswith("semi.") and getattr(part, "changes", {}).get("trainer") and name in override:
            raise ConfigError(f"semi={name} would have no effect here: in evaluation it is the learner itself")


def check_unlabeled_are_used(cfg: DictConfig, learner: AbstractLearner) -> None:
    """**Raises:** `ConfigError` for a wrapper that uses unlabeled items, where episodes have none."""
    shapes = OmegaConf.to_container(cfg.task, resolve=True)
    if any(shape["n_unlabeled"] not in (0, [0, 0]) for shape in (shapes, shapes["train"])):
        return
    for layer in unwrapped(learner):
        idle = isinstance(layer, AbstractWrapper) and not layer.works_without_unlabeled
        idle = idle or bool(getattr(layer, "weight", 0) and layer.capabilities.n_views > 1)
        if idle and layer.capabilities.uses_unlabeled:
            raise ConfigError(
                f"semi={'+'.join(cfg.semi)} uses unlabeled items, and episodes of this task have none: give task.n_unlabeled, "
                "or take task=*_semi_*"
            )
