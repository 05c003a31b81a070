"""From a task's configuration to its images and episodes."""

from __future__ import annotations

import dataclasses

import numpy as np
from omegaconf import DictConfig, OmegaConf

from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.data.dataset import SPLITS, AbstractDataset
from episodic.data.labels.folds import fold_of
from episodic.data.labels.fraction import labeled_mask
from episodic.data.labels.held_out import held_out_masks, join_base
from episodic.data.store import ImageStore
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.episodes.sampler import EpisodeSampler

STREAMS = {"train": 0, "val": 1, "test": 2}  # the sampler's epoch: training never moves the episodes of an evaluation
SHAPE = ("n_way", "n_shot", "n_query", "n_unlabeled", "n_distractors")


def check_task(task: DictConfig) -> None:
    """**Raises:** `ConfigError` where the data set makes images of another form than the task says."""
    for name in ("image_size", "channels"):
        made = task.dataset.get(name, task[name])
        if made != task[name]:
            raise ConfigError(f"task.dataset.{name}={made}, but the task has {task[name]}: set task.{name} alone")


def count_train_classes(cfg: DictConfig) -> None:
    """Write the number of training classes into `cfg.task`, for learners that have a weight for each."""
    if cfg.task.train_classes is None:
        dataset = make(cfg.task.dataset, allow_any_target=cfg.allow_any_target)
        cfg.task.train_classes = len(load_split(dataset, cfg.task, "train").class_names)


def training_masks(task: DictConfig, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which training images training may see, and which of these it sees with their labels: two masks `[N]`."""
    seen = np.ones(len(labels), dtype=bool)
    if is_incremental(task):
        seen = held_out_masks(labels, task.held_out)["train"]
    labeled = seen.copy()
    if task.labeled_fraction < 1:
        labeled[seen] = labeled_mask(labels[seen], task.labeled_fraction, task.labeled_seed)
    return seen, labeled


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
    return task.base_way > 0


def episode_shape(task: DictConfig) -> dict[str, int | list[int]]:
    """The numbers of an episode, by name, for reports."""
    plain = OmegaConf.to_object(task)
    return {name: plain[name] for name in (*SHAPE, "base_way", "base_query") if name in plain}


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
    folded = task.fold is not None
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
