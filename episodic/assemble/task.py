"""From the configuration of a task to its images and episodes."""

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
    """**Raises:** `ConfigError` where the data set is configured for images of another form than the task says, and for a share of
    labeled images that is none.
    """
    if not 0 < task.labeled_fraction <= 1:
        raise ConfigError(f"task.labeled_fraction must be above 0 and at most 1, got {task.labeled_fraction}")
    for name in ("image_size", "channels"):
        made = task.dataset.get(name, task[name])
        if made != task[name]:
            raise ConfigError(f"task.dataset.{name}={made}, but the task has {task[name]}: set task.{name} alone")


def count_train_classes(cfg: DictConfig) -> None:
    """Write the number of training classes into `cfg.task.train_classes`, where it is None. Some learners have a weight for each
    class.

    **Raises:** `ConfigError` where it is another number already.
    """
    dataset = make(cfg.task.dataset, allow_any_target=cfg.allow_any_target)
    found = len(load_split(dataset, cfg.task, "train").class_names)
    if cfg.task.train_classes not in (None, found):
        raise ConfigError(f"task.train_classes={cfg.task.train_classes}, but there are {found:,}: leave it out")
    cfg.task.train_classes = found


def training_masks(task: DictConfig, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which training images training may use at all, and which of these with their labels: two masks `[N]`, `(seen, labeled)`.

    >>> from episodic.config.compose import compose_config
    >>> task = compose_config("train", ["task=glyphs_5w1s", "task.labeled_fraction=0.5"]).task
    >>> seen, labeled = training_masks(task, np.repeat([0, 1], 10))
    >>> seen.sum().item(), labeled.sum().item()
    (20, 10)
    """
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
    """A sampler of episodes from the images of `store`.

    **Arguments:**

    - `task`: the configuration of the task. `shape`: what has the numbers of an episode, the task itself or its part `train`.
    - `seed`, `stream`: what draws depend on; `stream` is `"train"`, `"val"` or `"test"`, so that training never moves the episodes
      of an evaluation.
    - `episodes`, `episodes_per_batch` (default 1): how many, and how many at once.
    - `labeled` (default None): which images are labeled; None for all.

    **Raises:** `ConfigError` for settings that do not go together; `ValueError` for an episode that cannot be drawn.

    >>> from episodic.config.compose import compose_config
    >>> import torch
    >>> images, labels = torch.zeros(100, 1, 4, 4, dtype=torch.uint8), torch.arange(100) // 20
    >>> store = ImageStore(images, labels, tuple("abcde"), tuple(map(str, range(100))), None, (), "letters", "test", "ours")
    >>> task = compose_config("train", ["task=glyphs_5w1s"]).task
    >>> build_sampler(task, store, shape=task, seed=0, stream="test", episodes=600)
    EpisodeSampler(5-way 1-shot 15-query, 600 episodes, seed 0, epoch 2)
    """
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
    counts = {name: value if isinstance(value := shape[name], int) else tuple(value) for name in SHAPE}
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
    """Whether queries may be of training classes as well.

    >>> is_incremental(OmegaConf.create({"base_way": 20}))
    True
    """
    return task.base_way > 0


def episode_shape(task: DictConfig) -> dict[str, int | list[int]]:
    """The numbers of an episode by name, for reports.

    >>> from episodic.config.compose import compose_config
    >>> shape = episode_shape(compose_config("train", ["task=glyphs_5w1s"]).task)
    >>> shape["n_way"], shape["n_shot"], shape["n_query"]
    (5, 1, 15)
    """
    plain = OmegaConf.to_object(task)
    return {name: plain[name] for name in (*SHAPE, "base_way", "base_query") if name in plain}


def load_store(dataset: AbstractDataset, task: DictConfig, split: str) -> ImageStore:
    """The images that the episodes of `split` are drawn from. In an incremental task these are also the held out images of the base
    classes.

    **Raises:** `ConfigError` for an incremental task where only training classes are on disk; what `load_split` raises.
    """
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
    """The images of a split. Where it is not on disk, those of the next best split are taken, and a line on the terminal says so.

    In the place of test classes come validation classes, and in the place of these training classes. With `task.fold` the training
    classes are those outside of the fold, and the validation classes those in it; what is neither is for test.

    **Raises:** `ConfigError` for another split; `FileNotFoundError` where no images are on disk.
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
