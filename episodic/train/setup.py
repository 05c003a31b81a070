"""Builds a training procedure from a configuration."""

from __future__ import annotations

import dataclasses
import math

from omegaconf import DictConfig, OmegaConf
from torch.nn.modules.batchnorm import _BatchNorm

from episodic.assemble.effects import (
    check_unlabeled_are_used,
    idle_in_learner,
    idle_in_task,
    idle_transform,
    parts_of,
    refuse_idle,
)
from episodic.assemble.learner import Parts, build_label_swap
from episodic.assemble.task import build_sampler, is_incremental, load_split, training_masks
from episodic.config.compose import ConfigError
from episodic.config.instantiate import arguments_of, make
from episodic.core.losses.loss import AbstractPairLoss
from episodic.data.dataset import AbstractDataset
from episodic.learners.learner import AbstractLearner
from episodic.run.distributed import processes
from episodic.semi.wrapper import unwrapped
from episodic.train.objective import Objective
from episodic.train.procedure import AbstractProcedure, Setup

OWN = "cross_entropy"  # the option that a learner's own loss is among the losses


def build_procedure(cfg: DictConfig, parts: Parts) -> AbstractProcedure:
    """The training procedure `cfg.trainer`, at step 0. It is given all that a step needs: data, losses, optimizer and schedule.

    **Raises:** `ConfigError` for parts that do not go together, or could have no effect.
    """
    trust = {"allow_any_target": cfg.allow_any_target}
    check_wrappers(cfg, parts.learner)
    task = cfg.task
    store = load_split(parts.dataset, task, "train")
    seen, labeled = training_masks(task, store.labels.numpy())
    if is_incremental(task):
        store = dataclasses.replace(store, n_base=len(store.class_names))
    mask = None if labeled.all() else labeled

    def episodes(count: int, per_step: int):
        drawn = {"seed": cfg.seed, "stream": "train", "episodes": count, "episodes_per_batch": per_step}
        return build_sampler(task, store, shape=task.train, labeled=mask, **drawn)

    setup = Setup(
        learner=parts.learner,
        store=store,
        normalize=parts.normalize,
        optimizer=lambda groups: make(cfg.optimizer, groups, **trust),
        hardware=parts.hardware,
        episodes=episodes,
        objective=build_objective(cfg, parts.learner, parts.dataset).to(parts.hardware.device),
        augment=make(cfg.augment, **trust),
        schedule=make(cfg.schedule, **trust),
        seed=cfg.seed,
        labeled=mask,
        seen=None if seen.all() else seen,
        sync_batch_norm=cfg.sync_batch_norm,
    )
    return make(cfg.trainer, setup, **trust)


def build_objective(cfg: DictConfig, learner: AbstractLearner, dataset: AbstractDataset) -> Objective:
    """The losses of `cfg.loss`. Losses of pairs get the memory `cfg.memory`, and losses with a row for each class the exchange of
    rows `cfg.sse`.

    **Raises:** `ConfigError` for a memory or an exchange of rows that nothing could use.
    """
    trust = {"allow_any_target": cfg.allow_any_target}
    weights = {name: node.weight for name, node in cfg.loss.items()}
    nodes = {name: node for name, node in cfg.loss.items() if name != OWN}
    dim = math.prod(learner.backbone.shape) if nodes and hasattr(learner, "backbone") else 0
    own = OWN in weights and all(getattr(layer, "keeps_own_loss", True) for layer in unwrapped(learner)[:-1])
    losses, tables = {}, own and "label_swap" in arguments_of(cfg.learner, **trust)
    for name, node in nodes.items():
        settings = OmegaConf.to_container(node, resolve=True)
        settings = {key: value for key, value in settings.items() if key not in ("weight", "lr_multiplier")}
        wanted = arguments_of(node, **trust)
        given = {"dim": dim} if "dim" in wanted else {}
        if "label_swap" in wanted:
            given["label_swap"], tables = build_label_swap(cfg, dataset), True
        losses[name] = make(OmegaConf.create(settings), **given, **trust)
        if isinstance(losses[name], AbstractPairLoss):
            losses[name] = make(cfg.memory, losses[name], dim=dim, **trust)
    if is_chosen(cfg.memory) and not any(hasattr(loss, "memory") for loss in losses.values()):
        raise ConfigError(
            f"memory= shows past batches to losses of pairs, and {'+'.join(cfg.loss)} is none: choose one, such as "
            "loss=contrastive, or leave memory= out"
        )
    if is_chosen(cfg.sse) and not tables:
        raise ConfigError(
            "sse= exchanges rows of a table with a row for each training class, and nothing that is trained here has one: choose "
            "a learner or a loss that has, such as learner=base_classifier or loss=classifier, or leave sse= out"
        )
    multipliers = {name: node.lr_multiplier for name, node in nodes.items() if "lr_multiplier" in node}
    return Objective(losses, {name: weights[name] for name in losses}, weights.get(OWN), multipliers)


def is_chosen(node: DictConfig) -> bool:
    """Whether another option than `none` is chosen for a part of a configuration. It is told by the settings that the part has.

    >>> is_chosen(OmegaConf.create({"_target_": "episodic.core.losses.memory.xbm.no_memory"}))
    False
    """
    return len(node) > 1


def check_wrappers(cfg: DictConfig, learner: AbstractLearner) -> None:
    """**Raises:** `ConfigError` for wrappers in an order in which they cannot train, and for those that have no unlabeled items to
    use.
    """
    for place, inner in parts_of(cfg, learner).items():
        if not place.startswith("semi.") or inner is learner:
            continue
        name = place.removeprefix("semi.")
        if inner.capabilities.n_views > 1:
            raise ConfigError(
                f"{name} trains what it wraps, so in training it comes last: semi=[...,{name}]. In evaluation other wrappers can "
                "be put around it: semi=[saved,...]"
            )
        if inner.capabilities.trainer:
            raise ConfigError(f"{name} trains on its own, without another wrapper around it: semi={name}")
    check_unlabeled_are_used(cfg, learner)


def check_effects(cfg: DictConfig, overrides: list[str], procedure: AbstractProcedure) -> None:
    """Refuse settings that were set by hand and that nothing in the chosen parts reads.

    **Raises:** `ConfigError` that names the first such setting and the reason.
    """
    setup = procedure.setup
    parts = parts_of(cfg, setup.learner) | {"trainer": procedure, "augment": setup.augment, "schedule": setup.schedule}
    parts |= {f"loss.{name}": getattr(loss, "loss", loss) for name, loss in setup.objective.losses.items()}
    idle = idle_in_task(cfg.task) | idle_in_learner(cfg, setup.learner) | idle_in_processes(setup.learner)
    idle |= {} if setup.objective.losses else idle_transform(setup.learner)
    refuse_idle(overrides, parts, idle | dict(procedure.unread))


def idle_in_processes(learner: AbstractLearner) -> dict[str, str]:
    """Settings that count only where several processes train the learner. The result is setting -> the reason."""
    reason = ""
    if processes() == 1:
        reason = "one process has the whole batch of a step (torchrun starts several)"
    elif learner.capabilities.episodes_apart:
        reason = f"batch norm of {type(unwrapped(learner)[-1]).__name__} is over one episode at a time"
    elif not any(isinstance(module, _BatchNorm) for module in learner.modules()):
        reason = "there is no batch norm"
    return {"sync_batch_norm": reason} if reason else {}
