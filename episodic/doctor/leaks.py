"""The check for leaks: classes of validation or test that a run was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from episodic.assemble.task import load_split
from episodic.config.instantiate import make
from episodic.data.dataset import SPLITS
from episodic.data.store import ImageStore, digest
from episodic.doctor.finding import Finding, first_line, found_or_ok
from episodic.run.run import Run

PRETRAINED = "episodic.core.backbones.pretrained.Pretrained"


def check_run(cfg: DictConfig, stores: dict[str, ImageStore]) -> Iterator[Finding]:
    """Find classes of validation or test that the run, or a run that it started from, was trained on."""
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
            text = (
                f"{folder}: its backbone began with weights={weights}: they may have been trained on these classes, as"
            )
            yield Finding(
                "run", "warning", f"{text} ImageNet's were on miniImageNet's, tieredImageNet's and some of CUB's"
            )
        folder = saved.get("init_from")


def _shared_classes(
    cfg: DictConfig, folder: str, saved: DictConfig, stores: dict[str, ImageStore]
) -> Iterator[Finding]:
    recorded = Run(Path(folder)).metrics().get("train/class_hash")
    try:
        names = training_classes(cfg, saved)
    except (FileNotFoundError, ValueError) as error:
        yield Finding(
            "run", "warning", f"{folder}: the names of its training classes are not known: {first_line(error)}"
        )
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
                "run", "error", f"{folder} was trained on exactly the classes of {split}: both have the hash {recorded}"
            )
        if names is None or recorded == store.class_hash:
            continue
        shared = [
            {"split": split, "class": name, "trained on in": folder} for name in sorted({*store.class_names} & {*names})
        ]
        told = f"{folder} was trained on {len(names):,} classes; of the {len(store.class_names):,} {split} classes"
        found = f"{told}, {len(shared):,} are among them: it has seen their labels"
        yield found_or_ok("run", "error", found, f"{told}, none is among them", shared)


def training_classes(cfg: DictConfig, saved: DictConfig) -> Sequence[str]:
    """The names of the classes that a run with the configuration `saved` was trained on, read from its data as they are now."""
    if cfg.data_dir is not None:
        saved.data_dir = cfg.data_dir
    dataset = make(saved.task.dataset, allow_any_target=cfg.allow_any_target)
    if saved.task.get("fold") is None:
        return dataset.listing("train").class_names
    return load_split(dataset, saved.task, "train").class_names
