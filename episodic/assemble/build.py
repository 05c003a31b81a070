"""From a configuration to the objects of one run: where `cfg` ends."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from episodic.run.checkpoint import bare
from episodic.config.compose import ConfigError, make
from episodic.core.losses.loss import AbstractPairLoss
from episodic.core.regularizers.sse import edges_of_file, edges_of_groups
from episodic.data.augment import Augment, Normalize
from episodic.data.dataset import SPLITS, AbstractDataset
from episodic.data.labels.held_out import held_out_masks, join_base
from episodic.data.labels.fraction import labeled_mask
from episodic.data.store import ImageStore
from episodic.data.labels.folds import fold_of
from episodic.run.device import Hardware
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.learners.learner import AbstractLearner
from episodic.train.loop import Trainer, Training
from episodic.train.dml import ANY_IMAGE, TRAININGS, MetricTrainer
from episodic.train.objective import OWN, WithLosses
from episodic.train.pseudo_labels import PseudoLabelTraining
from episodic.run.run import Run
from episodic.episodes.sampler import EpisodeSampler
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.semi.wrapper import layers

STREAMS = {"train": 0, "val": 1, "test": 2}  # the sampler's epoch: training never moves the episodes of an evaluation
SHAPE = ("n_way", "n_shot", "n_query", "n_unlabeled", "n_distractors")


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What training and evaluation share: data, model and hardware of one configuration."""

    dataset: AbstractDataset
    normalize: Normalize
    learner: AbstractLearner
    hardware: Hardware


def build_parts(cfg: DictConfig) -> Parts:
    """Data set and learner (weights drawn from `cfg.seed`), placed on the hardware."""
    trust = {"allow_any_target": cfg.allow_any_target}
    hardware = Hardware.choose(cfg.device, cfg.precision)
    dataset = make(cfg.task.dataset, **trust)
    torch.manual_seed(cfg.seed)
    given = {"exchange": build_exchange(cfg, dataset)} if "exchange" in arguments_of(cfg.learner) else {}
    learner = build_learner(cfg, build_backbone(cfg, **trust), given, **trust)
    if is_incremental(cfg.task) and not learner.incremental:
        raise ConfigError(
            f"{type(learner).__name__} answers with the classes of the episode only; an incremental task, where training "
            "classes are answers too, needs learner=attention_attractor or base_classifier"
        )
    normalize = Normalize(dataset.mean, dataset.std).to(hardware.device)
    return Parts(dataset, normalize, hardware.place(learner), hardware)


def build_backbone(cfg: DictConfig, **trust: bool) -> nn.Module:
    """The backbone with its head."""
    backbone = make(cfg.backbone, **trust)
    return make(cfg.head, backbone, **trust) if "head" in cfg else backbone  # runs of older versions do not have one


def build_learner(
    cfg: DictConfig, backbone: nn.Module, given: Mapping[str, nn.Module], **trust: bool
) -> AbstractLearner:
    """The learner on `backbone` and what else it is `given`, in its wrappers, in the order of semi=[inner,outer]."""
    learner = make(cfg.learner, backbone=backbone, **given, **trust)
    for wrapper in cfg.semi.values():
        learner = make(wrapper, learner, **trust)
    return learner


def count_train_classes(cfg: DictConfig) -> None:
    """Write the number of training classes into `cfg.task`, for learners that have a weight for each."""
    if cfg.task.train_classes is None:
        dataset = make(cfg.task.dataset, allow_any_target=cfg.allow_any_target)
        cfg.task.train_classes = len(load_split(dataset, cfg.task, "train").class_names)


def load_start(cfg: DictConfig, learner: AbstractLearner) -> str:
    """Begin with the weights of the run `cfg.start`, where name and shape agree; says what was taken.

    **Raises:** `ConfigError` where the learner needs such a run and none is given, or its backbone does not fit.
    """
    if cfg.start is None:
        if learner.needs_start:
            raise ConfigError(
                f"{type(learner).__name__} goes on from trained weights: {learner.needs_start}, then start=<that run>"
            )
        return ""
    run = Run(Path(cfg.start))
    check_held_out(run.config(), cfg.task, cfg.start)
    check_labels_unseen(run.config(), cfg.task, cfg.start)
    theirs = {bare(name): value for name, value in run.weights().items()}
    mine = learner.state_dict()
    fit = {
        name: theirs[bare(name)]
        for name, value in mine.items()
        if bare(name) in theirs and value.shape == theirs[bare(name)].shape
    }
    inner = layers(learner)[-1]
    needed = {name for name, parameter in inner.named_parameters() if not parameter.requires_grad}
    needed |= {name for name in inner.state_dict() if name.startswith("backbone.") and "backbone.head." not in name}
    needed = {bare(name) for name in needed}
    lost = [bare(name) for name in mine if name not in fit and bare(name) in needed]
    if lost:
        wanted = f"; wanted: {learner.needs_start}" if learner.needs_start else ""
        raise ConfigError(f"start={cfg.start} does not fit: {lost[0]} is not there or of another shape{wanted}")
    learner.load_state_dict(fit, strict=False)
    return f"{len(fit)} of {len(mine)} tensors from {cfg.start}"


def check_held_out(saved: DictConfig, task: DictConfig, folder: str) -> None:
    """Refuse a run that was trained on images which the incremental `task` holds out, or on other classes.

    **Raises:** `ConfigError`.
    """
    if not is_incremental(task):
        return
    theirs = saved.task.get("held_out", 0.0)
    if theirs != task.held_out or saved.task.dataset.get("_target_") != task.dataset.get("_target_"):
        raise ConfigError(
            f"{folder} was trained with held_out={theirs} on {saved.task.dataset._target_.split('.')[-1]}; this incremental task "
            f"holds {task.held_out} of {task.dataset._target_.split('.')[-1]}'s training images out, and asks for them"
        )


def check_labels_unseen(saved: DictConfig, task: DictConfig, folder: str) -> None:
    """Refuse a run that was trained with labels which `task` hides, or on its fold.

    **Raises:** `ConfigError`.
    """
    theirs = (saved.task.get("labeled_fraction", 1.0), saved.task.get("labeled_seed", 0))
    ours = (task.labeled_fraction, task.labeled_seed)
    same_data = saved.task.dataset.get("_target_") == task.dataset.get("_target_")
    same_fold = all(saved.task.get(key) == task[key] for key in ("fold", "folds"))
    if same_data and task.fold is not None and not same_fold:
        raise ConfigError(f"{folder} was trained on classes of task.fold={task.fold}, which are for validation here")
    if same_data and ours[0] < 1 and (theirs[0] > ours[0] or theirs[1] != ours[1]):
        raise ConfigError(
            f"{folder} was trained with task.labeled_fraction={theirs[0]} and task.labeled_seed={theirs[1]}; this task, with "
            f"{ours[0]} and {ours[1]}, hides some of its labels"
        )


def build_training(cfg: DictConfig, parts: Parts) -> Training:
    """Everything that a training step needs, at step 0."""
    trust = {"allow_any_target": cfg.allow_any_target}
    if any(inner.views > 1 for inner in layers(parts.learner)[1:]):
        raise ConfigError(
            "mean_teacher trains what it wraps, so in training it comes last: semi=[...,mean_teacher]. In evaluation other "
            "wrappers can be put around it: semi=[saved,...]"
        )
    if any(isinstance(inner, PseudoLabels) for inner in layers(parts.learner)[1:]):
        raise ConfigError("pseudo_labels trains on its own, without another wrapper around it: semi=pseudo_labels")
    trainer: Trainer = make(cfg.trainer, **trust)
    augment: Augment = make(cfg.augment, **trust)
    task = cfg.task
    store = load_split(parts.dataset, task, "train")
    labels = store.labels.numpy()
    seen, labeled = training_masks(task, labels)
    if is_incremental(task):
        store = dataclasses.replace(store, n_base=len(store.class_names))
    mask = None if labeled.all() else labeled
    if isinstance(trainer, MetricTrainer):
        if trainer.sampler in ANY_IMAGE and mask is not None:
            raise ConfigError(
                f"trainer.sampler={trainer.sampler} takes any training image, so none may be held out or unlabeled"
            )
        sampler = trainer.batches(labels, seed=cfg.seed, epoch=STREAMS["train"], labeled=mask)
    else:
        sampler = build_sampler(
            task,
            store,
            shape=task.train,
            seed=cfg.seed,
            stream="train",
            episodes=trainer.steps * trainer.episodes_per_step,
            episodes_per_batch=trainer.episodes_per_step,
            labeled=mask,
        )
    learner, kind, more = with_losses(cfg, parts.learner, parts.dataset), Training, {}
    if isinstance(learner, PseudoLabels):
        kind, more = PseudoLabelTraining, {"labeled": labeled, "seen": seen}
    elif isinstance(trainer, MetricTrainer):
        if not getattr(learner, "losses", None):
            raise ConfigError(
                "trainer=dml trains by losses of embeddings: choose one, e.g. loss=multi_similarity, or loss=classifier for "
                "plain supervised pre-training"
            )
        kind = TRAININGS[trainer.sampler]
    return kind(
        **more,
        learner=learner,
        store=store,
        sampler=sampler,
        normalize=parts.normalize,
        augment=augment,
        optimizer=make(cfg.optimizer, learner.learned_parameters(), **trust),
        schedule=make(cfg.schedule, **trust),
        trainer=trainer,
        hardware=parts.hardware,
        seed=cfg.seed,
    )


def training_masks(task: DictConfig, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which training images training may see, and which of these it sees with their labels: two masks `[N]`."""
    seen = np.ones(len(labels), dtype=bool)
    if is_incremental(task):
        seen = held_out_masks(labels, task.held_out)["train"]
    labeled = seen.copy()
    if task.labeled_fraction < 1:
        labeled[seen] = labeled_mask(labels[seen], task.labeled_fraction, task.labeled_seed)
    return seen, labeled


def with_losses(cfg: DictConfig, learner: AbstractLearner, dataset: AbstractDataset) -> AbstractLearner:
    """The learner with the losses of `cfg.loss` around it, where there are others than its own, in their memory and with the
    exchange of labels that `cfg.memory` and `cfg.sse` ask for.

    **Raises:** `ConfigError` for a memory that no loss can use.
    """
    weights = {name: node.weight for name, node in cfg.loss.items()}
    nodes = {name: node for name, node in cfg.loss.items() if name != OWN}
    trust = {"allow_any_target": cfg.allow_any_target}
    if not nodes:
        return learner
    dim, losses = math.prod(learner.backbone.shape), {}
    for name, node in nodes.items():
        settings = OmegaConf.to_container(node, resolve=True)
        settings = OmegaConf.create({key: value for key, value in settings.items() if key not in ("weight", "rate")})
        given = {"dim": dim, "exchange": build_exchange(cfg, dataset)}
        losses[name] = make(settings, **{key: given[key] for key in arguments_of(node) & given.keys()}, **trust)
        if isinstance(losses[name], AbstractPairLoss):
            losses[name] = make(cfg.memory, losses[name], dim=dim, **trust)
    rates = {name: node.rate for name, node in nodes.items() if "rate" in node}
    return WithLosses(learner, losses, weights, rates)


def build_exchange(cfg: DictConfig, dataset: AbstractDataset) -> torch.nn.Module:
    """The exchange of rows of a table with a row for each training class; its graph is that of the file `cfg.sse.edges`, or joins
    the classes of a super-class.

    **Raises:** `ConfigError` where a graph is asked for and there is neither; what `edges_of_file` raises.
    """
    given = {"n_rows": cfg.task.train_classes}
    if "edges" in arguments_of(cfg.sse):
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


def arguments_of(node: DictConfig) -> set[str]:
    """What the target of `node` takes, by name."""
    return set(inspect.signature(get_object(node._target_)).parameters)


def build_sampler(
    task: DictConfig,
    store: ImageStore,
    *,
    shape: DictConfig,
    seed: int,
    stream: str,
    episodes: int,
    episodes_per_batch: int = 1,
    labeled: np.ndarray | None = None,
) -> EpisodeSampler | IncrementalEpisodes:
    """Episodes of `store` in the shape given by `shape` (the task itself, or its `train` part)."""
    drawn = {"episodes": episodes, "seed": seed, "epoch": STREAMS[stream], "episodes_per_batch": episodes_per_batch}
    if is_incremental(task):
        odd = task.imbalanced or task.within_super_class or shape.n_unlabeled or shape.n_distractors
        if odd or not all(isinstance(shape[name], int) for name in SHAPE):
            raise ConfigError(
                "an incremental task has fixed numbers: no ranges, unlabeled items, unequal shots or super-classes"
            )
        counts = (shape.n_way, shape.n_shot, shape.n_query, task.base_way, task.base_query)
        return IncrementalEpisodes(
            store.labels.numpy(), store.n_base, *counts, labeled=labeled, too_small=task.too_small, **drawn
        )
    if task.within_super_class and store.super_classes is None:
        raise ConfigError(f"{store.dataset} has no super-classes, so task.within_super_class=true cannot be had")
    counts = {name: value if isinstance(value := shape[name], int) else _range(name, value) for name in SHAPE}
    return EpisodeSampler(
        store.labels.numpy(),
        **counts,
        **drawn,
        imbalanced=task.imbalanced,
        super_classes=store.super_classes.numpy() if task.within_super_class else None,
        labeled=labeled,
        too_small=task.too_small,
    )


def is_incremental(task: DictConfig) -> bool:
    """Whether queries may be of training classes as well."""
    return task.get("base_way", 0) > 0  # runs of older versions do not have it


def episode_shape(task: DictConfig) -> dict[str, int | list[int]]:
    """The numbers of an episode, by name, for reports."""
    plain = OmegaConf.to_object(task)
    return {name: plain.get(name, 0) for name in (*SHAPE, "base_way", "base_query")}


def load_store(dataset: AbstractDataset, task: DictConfig, split: str) -> ImageStore:
    """The images that the episodes of `split` come from; in an incremental task with those held out of the base classes."""
    novel = load_split(dataset, task, split)
    if not is_incremental(task):
        return novel
    if novel.split == "train":
        raise ConfigError(
            "an incremental task needs validation or test classes; there are only training classes on disk"
        )
    base = load_split(dataset, task, "train")
    return join_base(base, held_out_masks(base.labels.numpy(), task.held_out)[novel.split], novel)


def load_split(dataset: AbstractDataset, task: DictConfig, split: str) -> ImageStore:
    """The images of `split`, or of the next best split where it is not on disk; says so on the terminal.

    The test classes fall back to the validation classes, and these to the training classes. With `task.fold` the training
    classes are those outside the fold, the validation classes those inside, and what is neither is for test.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)} or all, got {split!r}")
    folded = task.get("fold") is not None  # runs of older versions do not have it
    if folded and split != "test":
        return fold_of(dataset.store("train"), split, task.fold, task.folds)
    first: FileNotFoundError | None = None
    for candidate in reversed(SPLITS[int(folded) : SPLITS.index(split) + 1]):
        try:
            store = dataset.store(candidate)
        except FileNotFoundError as error:
            first = first or error
        else:
            if candidate != split:
                print(f"Note: {dataset.name} has no {split} classes on disk; using its {candidate} classes.")
            if folded and candidate != split:  # the fold has other validation classes
                store = dataclasses.replace(store, split=split, split_name=f"{store.split_name}, {candidate}")
            return store
    raise first


def _range(name: str, value: object) -> tuple[int, int]:
    try:
        low, high = value
        return int(low), int(high)
    except (TypeError, ValueError):
        raise ConfigError(f"task.{name} must be an integer or a range [low,high], got {value!r}") from None
