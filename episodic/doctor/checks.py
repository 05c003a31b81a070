"""`python -m episodic.doctor data=<dir> | task=... [run=<dir>] [near=<bits>] [out=<file.json|csv>]`: look at the data first."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from episodic.assemble.task import SHAPE, build_sampler, is_incremental, load_split, load_store, training_masks
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.data.dataset import SPLITS
from episodic.data.image import others_below
from episodic.data.store import ImageStore, digest
from episodic.doctor.duplicates import ALIKE, COPIES, find_duplicates
from episodic.evaluate.tables import table
from episodic.run.run import Run, write_atomically

SHOWN = 20  # lines of a list on the terminal; the file has all
MARKS = ("error", "warning", "ok")
SPLIT_HEADER = ["split", "images", "classes", "super-classes", "a class: fewest / median / most", "smallest classes"]
MEANING = {
    "identical": "identical pixels",
    "copy": f"copies (correlation of thumbnails from {COPIES})",
    "alike": f"alike, to be looked at (correlation from {ALIKE})",
}
PAIR = ("kind", "split", "class", "image", "in", "of class", "also", "bits", "correlation")
TABLES = (".csv", ".json")  # that say what the images are
PRETRAINED = "episodic.core.backbones.pretrained.Pretrained"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check has to say; `items` are the images, classes or pairs behind it, the worst first."""

    section: str
    mark: str
    text: str
    items: Sequence[dict[str, Any]] = ()


def with_data(arguments: list[str]) -> list[str]:
    """Make `data=<dir>` the task of a folder, unless a task is given too."""
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    if "data" not in given:
        if "task" in given:
            return arguments
        raise ConfigError("which data? python -m episodic.doctor data=<dir>, or task=<name>, e.g. task=omniglot_5w1s")
    if not given["data"] or not given.get("task", "folder").startswith("folder"):
        raise ConfigError("data=<dir> is a folder of images, for task=folder_5w1s (the default) or task=folder_5w5s")
    rest = [a for a in arguments if not a.startswith("data=")]
    task = [] if "task" in given else ["task=folder_5w1s"]
    return [*rest, *task, f"data={given['data']}", f"task.dataset.path={given['data']}"]


def main(cfg: DictConfig) -> None:
    """Say what is wrong with the data of `cfg.task`; the exit code is 1 where something must be mended."""
    _check_options(cfg)
    corrupt = cfg.task.dataset.get("corrupt", "error")
    if "corrupt" in cfg.task.dataset:
        cfg.task.dataset.corrupt = "skip"  # so that all are listed
    stores, findings = read_splits(cfg)
    own = {split: store for split, store in stores.items() if store.split == split}
    findings += check_files(own, "warning" if corrupt == "skip" else "error")
    findings += check_left_out(cfg)
    findings += check_names(own)
    findings += check_episodes(cfg, stores)
    findings += check_duplicates(own, cfg.near)
    if cfg.run is not None:
        findings += check_run(cfg, own)
    print(table(SPLIT_HEADER, [split_row(store) for store in own.values()]))
    print(report(findings))
    if cfg.out:
        write_report(Path(str(cfg.out)), findings, [split_row(store) for store in own.values()])
    if any(finding.mark == "error" for finding in findings):
        raise SystemExit(1)


def _check_options(cfg: DictConfig) -> None:
    if cfg.near is not None and not (isinstance(cfg.near, int) and 0 <= cfg.near <= 16):
        raise ConfigError(f"near must be a number of bits in 0..16, or null, got {cfg.near!r}")
    if cfg.out is not None:
        out = Path(str(cfg.out)).absolute()
        if out.suffix not in (".json", ".csv") or not out.parent.is_dir():
            raise ConfigError(f"out must be a file .json or .csv in a folder that is there, got {cfg.out}")
    if cfg.task.dataset.get("corrupt", "error") not in ("error", "skip"):
        raise ConfigError(f"task.dataset.corrupt must be error or skip, got {cfg.task.dataset.corrupt!r}")
    if cfg.run is not None:
        Run(Path(str(cfg.run))).config()


def read_splits(cfg: DictConfig) -> tuple[dict[str, ImageStore], list[Finding]]:
    """The images of each split as training and evaluation would take them, less those that cannot be read.

    **Raises:** `FileNotFoundError` where there is nothing at all.
    """
    dataset = make(cfg.task.dataset, allow_any_target=cfg.allow_any_target)
    stores, findings, missing = {}, [], {}
    for split in SPLITS:
        try:
            stores[split] = load_split(dataset, cfg.task, split)
        except FileNotFoundError as error:
            missing[split] = error
        except ValueError as error:
            text = " ".join(str(error).split())
            if text not in [finding.text for finding in findings]:
                findings.append(Finding("files", "error", text))
    if len(missing) == len(SPLITS):
        raise missing["train"]
    for split, error in missing.items():
        mark = "error" if cfg.run is None else "warning"  # a run can be scored without training classes
        findings.append(Finding("files", mark, f"{split}: {_line(error)}"))
    for split, store in stores.items():
        if store.split != split:
            try:
                dataset.listing(split)
            except FileNotFoundError as error:
                text = f"{split}: {store.split} classes stand in for it, since {_line(error)}"
                findings.append(Finding("files", "warning", text))
    return stores, findings


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]


def split_row(store: ImageStore) -> list[str]:
    """One row under `SPLIT_HEADER`."""
    counts = np.bincount(store.labels.numpy(), minlength=len(store.class_names))
    smallest = np.argsort(counts, kind="stable")[:3] if counts.min() < counts.max() else []
    return [
        store.split,
        f"{len(store):,}",
        f"{len(counts):,}",
        "-" if store.super_classes is None else f"{len(np.unique(store.super_classes.numpy())):,}",
        f"{counts.min():,} / {np.median(counts):,g} / {counts.max():,}",
        ", ".join(f"{store.class_names[c]} ({counts[c]})" for c in smallest) or "all alike",
    ]


def check_files(stores: dict[str, ImageStore], mark: str) -> Iterator[Finding]:
    """Files that are no whole images, and classes left without any."""
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
    """Of a folder of images: folders that hold none, and files that are left out by their names."""
    if (path := cfg.task.dataset.get("path")) is None:
        return
    root = Path(path).expanduser()
    empty = [p for p in sorted(root.rglob("[!.]*")) if p.is_dir() and not any(p.iterdir())]
    others = [p for p in others_below(root) if p.suffix.lower() not in TABLES]
    for found, text in ((empty, "folders with nothing in them"), (others, "files left out, by their names no images")):
        if found:
            items = [{"below the folder": str(p.relative_to(root))} for p in found]
            yield Finding("files", "warning", f"{text}: {len(found):,}", items)


def check_names(stores: dict[str, ImageStore]) -> Iterator[Finding]:
    """Classes whose names are in two splits, or differ by case and spaces only."""
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
    yield _found("classes", "error", both, "no class is in two splits", same)
    nearly = f"{len(similar)} pairs of classes differ by case or spaces only: are they one class?"
    yield _found("classes", "warning", nearly, "no names differ by case or spaces only", similar)


def _found(section: str, mark: str, text: str, otherwise: str, items: Sequence[dict[str, Any]]) -> Finding:
    return Finding(section, mark, text, items) if items else Finding(section, "ok", otherwise)


def check_episodes(cfg: DictConfig, stores: dict[str, ImageStore]) -> Iterator[Finding]:
    """Whether episodes of the task can be drawn: what the sampler says, and which classes are in its way."""
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
        # Where the shares held out are wrong nothing can be counted.
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
    short = np.flatnonzero(
        (counts < need).any(axis=0) & (counts.sum(axis=0) > 0)
    )  # samplers do not see classes without images
    worst_first = short[np.argsort((counts - need)[:, short].min(axis=0), kind="stable")]
    return [
        {"split": split, "class": store.class_names[c], "has": _sum(counts[:, c]), "needs": _sum(need[:, c])}
        for c in worst_first
    ]


def class_needs(
    task: DictConfig, shape: DictConfig, store: ImageStore, labeled: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """How many images an episode takes of a class, and how many each class has, by the samplers' rules: both `[pools, classes]`.

    The pools are all images, or the labeled ones and the rest.
    """
    most = {name: value if isinstance(value := shape[name], int) else max(value) for name in SHAPE}
    shots = most["n_way"] * (most["n_shot"] - 1) + 1 if task.imbalanced else most["n_shot"]
    labels, classes = store.labels.numpy(), len(store.class_names)
    pools = [np.ones(len(labels), dtype=bool)] if labeled is None else [labeled, ~labeled]
    if is_incremental(task):
        pools = pools[:1]
        only_base = store.n_base == classes
        of_base = shots + max(most["n_query"], task.base_query) if only_base else 1 + task.base_query
        need = np.where(np.arange(classes) < store.n_base, of_base, shots + most["n_query"])[None]
    elif labeled is None:
        need = np.full((1, classes), shots + most["n_query"] + most["n_unlabeled"])
    else:
        need = np.repeat([[shots + most["n_query"]], [most["n_unlabeled"]]], classes, axis=1)
    return need, np.stack([np.bincount(labels[pool], minlength=classes) for pool in pools])


def _sum(numbers: np.ndarray) -> str:
    return " labeled + ".join(map(str, numbers)) + " unlabeled" * (len(numbers) > 1)


def check_duplicates(stores: dict[str, ImageStore], near: int | None) -> Iterator[Finding]:
    """Images that are there twice: in two splits, in two classes of one, or in one class."""
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
    yield _found("duplicates", "warning", f"{len(flat):,} images are of one colour", "no image is of one colour", flat)


def check_run(cfg: DictConfig, stores: dict[str, ImageStore]) -> Iterator[Finding]:
    """Whether the run, or one that it started from, has seen classes of validation or test in its training."""
    folder, done = str(cfg.run), set()
    while folder is not None and folder not in done:
        done.add(folder)
        try:
            saved = Run(Path(folder)).config()
        except FileNotFoundError as error:
            yield Finding("run", "warning", f"{error}; what the run that started from it had seen is not known")
            return
        yield from _shared_classes(cfg, folder, saved, stores)
        weights = saved.backbone.get("weights")
        if saved.backbone.get("_target_") == PRETRAINED and weights:
            text = f"{folder}: its backbone began with weights={weights}: classes here may be among those it was trained on, for"
            yield Finding(
                "run", "warning", f"{text} ImageNet's those of miniImageNet, tieredImageNet and some of CUB's birds"
            )
        folder = saved.get("start")


def _shared_classes(
    cfg: DictConfig, folder: str, saved: DictConfig, stores: dict[str, ImageStore]
) -> Iterator[Finding]:
    metrics = Path(folder) / "metrics.json"
    recorded = json.loads(metrics.read_text()).get("train/class_hash") if metrics.is_file() else None
    try:
        names = training_classes(cfg, saved)
    except (FileNotFoundError, ValueError) as error:
        yield Finding("run", "warning", f"{folder}: the names of its training classes are not known: {_line(error)}")
        names = None
    if names is not None and recorded not in (None, digest(*sorted(names))):
        text = f"{folder}: its training classes had the hash {recorded}, those of its data now have {digest(*sorted(names))}"
        yield Finding("run", "warning", f"{text}: the data have changed since")
    for split in SPLITS[1:]:
        if split not in stores:
            continue
        store = stores[split]
        if recorded == store.class_hash:
            yield Finding(
                "run", "error", f"{folder} was trained on the very classes of {split}, by their hash {recorded}"
            )
        if names is None or recorded == store.class_hash:
            continue
        shared = [
            {"split": split, "class": name, "trained on in": folder} for name in sorted({*store.class_names} & {*names})
        ]
        told = f"{folder} was trained on {len(names):,} classes; of the {len(store.class_names):,} {split} classes"
        found = f"{told}, {len(shared):,} are among them: it has seen their labels"
        yield _found("run", "error", found, f"{told}, none is among them", shared)


def training_classes(cfg: DictConfig, saved: DictConfig) -> Sequence[str]:
    """The names of the classes that the run with the configuration `saved` was trained on, by the data as they are now."""
    if cfg.data_dir is not None:
        saved.data_dir = cfg.data_dir
    dataset = make(saved.task.dataset, allow_any_target=cfg.allow_any_target)
    if saved.task.get("fold") is None:
        return dataset.listing("train").class_names
    return load_split(dataset, saved.task, "train").class_names


def report(findings: Sequence[Finding]) -> str:
    """A table a section with the first of what is behind it, and the counts."""
    lines = []
    for section in dict.fromkeys(finding.section for finding in findings):
        own = [finding for finding in findings if finding.section == section]
        lines += ["", table([section, ""], [[finding.mark, finding.text] for finding in own])]
        items = [item for finding in own for item in finding.items]
        if items:
            shown = table(list(items[0]), [list(map(str, item.values())) for item in items[:SHOWN]])
            lines += ["", *(f"  {line}" for line in shown.splitlines())]
        if len(items) > SHOWN:
            lines.append(f"  ... and {len(items) - SHOWN:,} more; out=<file> has all")
    counts = {mark: sum(finding.mark == mark for finding in findings) for mark in MARKS}
    return "\n".join([*lines, "", ", ".join(f"{mark}: {count}" for mark, count in counts.items())])


def write_report(path: Path, findings: Sequence[Finding], splits: Sequence[Sequence[str]]) -> None:
    """All findings with all that is behind them: JSON, or CSV with a line for each item (or finding without one)."""
    if path.suffix == ".json":
        rows = [dict(zip(SPLIT_HEADER, row, strict=True)) for row in splits]
        content = {"splits": rows, "findings": [dataclasses.asdict(finding) for finding in findings]}
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        return
    rows = [
        {"section": finding.section, "mark": finding.mark, "finding": finding.text, **item}
        for finding in findings
        for item in finding.items or [{}]
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


if __name__ == "__main__":
    command("doctor", main, with_data)
