"""Builds a learner from a configuration: on its backbone, in its wrappers, on a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch import nn

from episodic.assemble.task import check_task, is_incremental, load_split
from episodic.config.compose import ConfigError
from episodic.config.instantiate import arguments_of, check_targets, make
from episodic.core.regularizers.sse import edges_of_file, edges_of_groups
from episodic.data.augment import Normalize
from episodic.data.dataset import AbstractDataset
from episodic.learners.learner import AbstractLearner
from episodic.run.device import Hardware


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The data, the model and the hardware of one configuration. Training and evaluation share them."""

    dataset: AbstractDataset
    normalize: Normalize
    learner: AbstractLearner
    hardware: Hardware


def build_parts(cfg: DictConfig) -> Parts:
    """Build the data set and the learner of a configuration. The learner's weights are drawn from `cfg.seed`, and it is on the
    device.

    **Raises:** `ConfigError` for a part that is no choice of its group, for a seed below 0, and for an incremental task with a
    learner that answers with the classes of the episode only; what building a part raises.
    """
    if cfg.seed < 0:
        raise ConfigError(f"seed must be at least 0, got {cfg.seed}")
    trust = {"allow_any_target": cfg.allow_any_target}
    check_targets(cfg, **trust)
    check_task(cfg.task)
    hardware = Hardware.choose(cfg.device, cfg.precision)
    dataset = make(cfg.task.dataset, **trust)
    if dataset.channels != cfg.task.channels:
        raise ConfigError(f"task.channels={cfg.task.channels}, but images of {dataset.name} have {dataset.channels}")
    torch.manual_seed(cfg.seed)
    given = {"label_swap": build_label_swap(cfg, dataset)} if "label_swap" in arguments_of(cfg.learner, **trust) else {}
    learner = build_learner(cfg, build_backbone(cfg, **trust), given, **trust)
    if is_incremental(cfg.task) and not learner.capabilities.incremental:
        raise ConfigError(
            f"{type(learner).__name__} answers with the classes of the episode only; an incremental task, where training "
            "classes are answers too, needs learner=attention_attractor or base_classifier"
        )
    normalize = Normalize(dataset.mean, dataset.std).to(hardware.device)
    return Parts(dataset, normalize, hardware.place(learner), hardware)


def build_backbone(cfg: DictConfig, **trust: bool) -> nn.Module:
    """Build the backbone of a configuration, with its head and its transform where there are any.

    >>> from episodic.config.compose import compose_config
    >>> build_backbone(compose_config("train", ["backbone=conv4", "task.image_size=28", "task.channels=1"])).shape
    (64,)
    """
    backbone = make(cfg.backbone, **trust)
    for part in ("head", "transform"):
        backbone = make(cfg[part], backbone, **trust) if part in cfg else backbone
    return backbone


def build_learner(
    cfg: DictConfig, backbone: nn.Module, given: Mapping[str, nn.Module], **trust: bool
) -> AbstractLearner:
    """Build the learner of a configuration on `backbone`, and put its wrappers around it in the order of `semi=[inner,outer]`.

    **Arguments:** `given`: further arguments of the learner, by name.

    >>> from episodic.config.compose import compose_config
    >>> learner = build_learner(compose_config("train", ["semi=soft_kmeans"]), nn.Flatten(), given={})
    >>> type(learner).__name__, type(learner.learner).__name__
    ('SoftKMeans', 'Prototypical')
    """
    learner = make(cfg.learner, backbone=backbone, **given, **trust)
    for wrapper in cfg.semi.values():
        learner = make(wrapper, learner, **trust)
    return learner


def build_label_swap(cfg: DictConfig, dataset: AbstractDataset) -> torch.nn.Module:
    """Build the exchange of rows for a table with a row for each training class. Where it goes by a graph, this is read from the
    file `cfg.sse.edges`, or joins the classes of each super-class.

    **Raises:** `ConfigError` where a graph is asked for and there is neither; what `edges_of_file` raises.
    """
    given = {"n_rows": cfg.task.train_classes}
    if "edges" in arguments_of(cfg.sse, allow_any_target=cfg.allow_any_target):
        store = load_split(dataset, cfg.task, "train")
        if cfg.sse.edges is not None:
            given["edges"] = edges_of_file(cfg.sse.edges, store.class_names)
        elif store.super_classes is not None:
            given["edges"] = edges_of_groups(store.super_classes)
        else:
            raise ConfigError(
                f"{dataset.name} has no super-classes, so it gives no graph to sse=graph: name a file of edges by "
                "sse.edges=<file>, or take sse=se"
            )
    return make(cfg.sse, **given, allow_any_target=cfg.allow_any_target)
