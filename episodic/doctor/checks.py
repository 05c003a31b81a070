"""The checks of the data doctor. Each is one function that yields findings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from episodic.assemble.task import SHAPE, build_sampler, is_incremental, load_store, training_masks
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.data.sources.tables import others_below
from episodic.data.store import ImageStore
from episodic.doctor.duplicates import ALIKE, COPIES, find_duplicates
from episodic.doctor.finding import Finding, found_or_ok
from episodic.episodes.incremental import incremental_items_needed
from episodic.episodes.sampler import items_needed

MEANING = {
    "identical": "identical pixels",
    "copy": f"copies (correlation of thumbnails from {COPIES})",
    "alike": f"alike, to be looked at (correlation from {ALIKE})",
}
PAIR = ("kind", "split", "class", "image", "in", "of class", "also", "bits", "correlation")
TABLES = (".csv", ".json")  # files beside the images that name their classes or splits


def check_files(stores: dict[str, ImageStore], mark: str) -> Iterator[Finding]:
    """Find files that are no whole images, and classes that have no image left."""
    for split, store in stores.items():
        bad = [{"split": split, "image": name, "reason": " ".join(reason.split())} for name, reason in store.skipped]
        mend = "replace them, or leave them out with task.dataset.corrupt=skip"
        text = f"{split}: {len(bad)} of {len(store) + len(bad):,} images cannot be read; {mend}"
        yield Finding("files", mark, text, bad) if bad else Finding("files", "ok", f"{split}: all images can be read")
        empty = np.flatnonzero(np.bincount(store.labels.numpy(), minlength=len(store.class_names)) == 0)
        if len(empty):
            names = [
                {"split": split, "image": "-", "reason": f"no image of {store.class_names[c]} is left"} for c in empty
            ]
            yield Finding("files", "warning", f"{split}: {len(empty)} classes have no image", names)


def check_left_out(cfg: DictConfig) -> Iterator[Finding]:
    """In a folder of images, find empty folders, and files that are left out since their names are not those of images."""
    if (path := cfg.task.dataset.get("path")) is None:
        return
    root = Path(path).expanduser()
    empty = [p for p in sorted(root.rglob("[!.]*")) if p.is_dir() and not any(p.iterdir())]
    others = [p for p in others_below(root) if p.suffix.lower() not in TABLES]
    for found, text in (
        (empty, "folders with nothing in them"),
        (others, "files left out because their names are not those of images"),
    ):
        if found:
            items = [{"below the folder": str(p.relative_to(root))} for p in found]
            yield Finding("files", "warning", f"{text}: {len(found):,}", items)


def check_names(stores: dict[str, ImageStore]) -> Iterator[Finding]:
    """Find classes that are in two splits, and names that differ by case and spaces only."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for split, store in stores.items():
        for name in store.class_names:
            groups.setdefault("".join(name.casefold().split()), []).append((split, name))
    same, similar = [], []
    for group in groups.values():
        for one, other in itertools.combinations(group, 2):
            pair = dict(zip(("split", "class", "in", "also"), [*one, *other], strict=True))
            (same if one[1] == other[1] else similar).append(pair)
    both = f"{len(same)} classes are in two splits: leave each in one"
    yield found_or_ok("classes", "error", both, "no class is in two splits", same)
    nearly = f"{len(similar)} pairs of classes differ by case or spaces only: are they one class?"
    yield found_or_ok("classes", "warning", nearly, "no names differ by case or spaces only", similar)


def check_episodes(cfg: DictConfig, stores: dict[str, ImageStore]) -> Iterator[Finding]:
    """Check whether episodes of the task can be drawn, and find the classes that have too few images for one."""
    task = cfg.task
    dataset = make(task.dataset, allow_any_target=cfg.allow_any_target)
    for split, store in stores.items():
        shape, labeled, refused = task.train if split == "train" else task, None, None
        try:
            if split == "train":
                _, mask = training_masks(task, store.labels.numpy())
                labeled = None if mask.all() else mask
                store = dataclasses.replace(store, n_base=len(store.class_names) if is_incremental(task) else 0)
            elif is_incremental(task):
                store = load_store(dataset, task, split)
            build_sampler(task, store, shape=shape, seed=0, stream=split, episodes=1, labeled=labeled)
        except ConfigError:
            raise
        except ValueError as error:
            refused = error
        # Where the share held out is wrong, there is nothing to count.
        if refused and is_incremental(task) and store.n_base == 0:
            yield Finding("episodes", "error", f"{split}: {refused}")
            continue
        need, counts = class_needs(task, shape, store, labeled)
        items = _short_classes(split, store, need, counts)
        classes = int((counts.sum(axis=0) > 0).sum())
        takes = f"{split}: an episode takes {_sum(need[:, -1])} images of a class"
        if refused:
            left = f" That leaves {classes - len(items):,} of {classes:,} classes." if items else ""
            yield Finding("episodes", "error", f"{split}: {refused}{left}", items)
        elif items:
            text = f"{takes}; {len(items):,} of {classes:,} classes have fewer and are left out"
            yield Finding("episodes", "warning", text, items)
        else:
            yield Finding("episodes", "ok", f"{takes}; all {classes:,} classes have them")


def _short_classes(split: str, store: ImageStore, need: np.ndarray, counts: np.ndarray) -> list[dict[str, Any]]:
    # Samplers do not see classes without images.
    short = np.flatnonzero((counts < need).any(axis=0) & (counts.sum(axis=0) > 0))
    worst_first = short[np.argsort((counts - need)[:, short].min(axis=0), kind="stable")]
    return [
        {"split": split, "class": store.class_names[c], "has": _sum(counts[:, c]), "needs": _sum(need[:, c])}
        for c in worst_first
    ]


def class_needs(
    task: DictConfig, shape: DictConfig, store: ImageStore, labeled: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """How many images an episode takes of each class, and how many each class has: both `[pools, classes]`.

    There is one pool of all images, or with `labeled` one of the labeled images and one of the others.
    """
    labels, classes = store.labels.numpy(), len(store.class_names)
    pools = [np.ones(len(labels), dtype=bool)] if labeled is None else [labeled, ~labeled]
    if is_incremental(task):
        pools = pools[:1]
        numbers = (shape.n_way, shape.n_shot, shape.n_query, task.base_way, task.base_query)
        of_new, of_base = incremental_items_needed(*numbers, only_base=store.n_base == classes)
        need = np.where(np.arange(classes) < store.n_base, of_base, of_new)[None]
    else:
        numbers = {name: shape[name] for name in SHAPE}
        of_pools = items_needed(numbers, imbalanced=task.imbalanced, split_pools=labeled is not None)
        need = np.repeat(np.array(of_pools)[:, None], classes, axis=1)
    return need, np.stack([np.bincount(labels[pool], minlength=classes) for pool in pools])


def _sum(numbers: np.ndarray) -> str:
    return " labeled + ".join(map(str, numbers)) + " unlabeled" * (len(numbers) > 1)


def check_duplicates(stores: dict[str, ImageStore], near: int | None) -> Iterator[Finding]:
    """Find images that are there twice: in two splits, in two classes of one split, or in one class."""
    if not stores:
        return
    parts = [store.images for store in stores.values()]
    split_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    starts = np.cumsum([0, *(len(store.class_names) for store in stores.values())])
    owners = np.concatenate([store.labels.numpy() for store in stores.values()]) + starts[split_of]
    names = [(store.split, store.class_names[c], i) for store in stores.values()
             for c, i in zip(store.labels.tolist(), store.item_names, strict=True)]  # fmt: skip
    try:
        found = find_duplicates(parts, owners, near)
    except ValueError as error:
        yield Finding("duplicates", "warning", f"{error}, as in films; only identical ones were looked for")
        near, found = None, find_duplicates(parts, owners, None)
    first, second = found.pairs.T
    inside = (owners[first] == owners[second]).astype(int) + (split_of[first] == split_of[second])
    copied = ~found.identical & (found.correlation >= COPIES)
    kinds = {"identical": found.identical, "copy": copied, "alike": ~found.identical & ~copied}
    for kind in kinds if near is not None else ["identical"]:
        order = np.flatnonzero(kinds[kind])
        order = order[np.lexsort((-found.correlation[order], inside[order]))]
        across, classes, within = np.bincount(inside[order], minlength=3)
        text = f"{MEANING[kind]}: pairs across splits {across:,}, across classes {classes:,}, inside a class {within:,}"
        mark = "ok" if len(order) == 0 else "error" if across and kind != "alike" else "warning"
        close = [(str(found.bits[k]), f"{found.correlation[k]:.3f}") for k in order]
        items = [(kind, *names[i], *names[j], *c) for (i, j), c in zip(found.pairs[order], close, strict=True)]
        yield Finding("duplicates", mark, text, [dict(zip(PAIR, item, strict=True)) for item in items])
    flat = [dict(zip(PAIR, ("flat", *names[i], *["-"] * 5), strict=True)) for i in found.flat]
    yield found_or_ok(
        "duplicates", "warning", f"{len(flat):,} images are of one color", "no image is of one color", flat
    )
