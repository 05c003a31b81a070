"""`python -m episodic.doctor data=<dir> | task=... [run=<dir>] [near=<bits>] [sources=false] [out=<file.json|csv>]`.

Looks for faults in the data before anything is trained on them: damage in the image cache, files that are no images, classes with
too few images, images that are there twice, and classes of validation or test that a run was trained on.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from episodic.assemble.task import load_split
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.config.overrides import given_options
from episodic.data.dataset import SPLITS, AbstractDataset
from episodic.data.store import ImageStore
from episodic.doctor.cached import check_cache
from episodic.doctor.checks import check_duplicates, check_episodes, check_files, check_left_out, check_names
from episodic.doctor.finding import Finding, first_line
from episodic.doctor.leaks import check_run
from episodic.doctor.tables import SPLIT_HEADER, report, split_row, write_report
from episodic.evaluate.tables import table
from episodic.run.run import Run

UNREAD = dict.fromkeys(
    ("augment", "transform", "optimizer", "schedule", "pretrain", "trainer"),
    "the doctor looks at the images as they are stored, and it counts in training alone",
)


def with_data(arguments: list[str]) -> list[str]:
    """Turn `data=<dir>` into the options of a task on that folder."""
    given = given_options(arguments)
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
    """Print what is wrong with the data of `cfg.task`. The exit code is 1 where something must be mended."""
    _check_options(cfg)
    corrupt = cfg.task.dataset.get("corrupt", "error")
    if "corrupt" in cfg.task.dataset:
        cfg.task.dataset.corrupt = "skip"  # so that all are listed
    dataset = make(cfg.task.dataset, allow_any_target=cfg.allow_any_target)
    cached = list(check_cache(dataset, cfg.sources))  # before the images are read, since it mends what is damaged
    stores, findings = read_splits(cfg, dataset)
    findings += cached
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
    if cfg.near is not None and not 0 <= cfg.near <= 16:
        raise ConfigError(f"near must be a number of bits in 0..16, or null, got {cfg.near!r}")
    if cfg.out is not None:
        out = Path(str(cfg.out)).absolute()
        if out.suffix not in (".json", ".csv") or not out.parent.is_dir():
            raise ConfigError(f"out must be a file .json or .csv in a folder that is there, got {cfg.out}")
    if cfg.task.dataset.get("corrupt", "error") not in ("error", "skip"):
        raise ConfigError(f"task.dataset.corrupt must be error or skip, got {cfg.task.dataset.corrupt!r}")
    if cfg.run is not None:
        Run(Path(str(cfg.run))).config()


def read_splits(cfg: DictConfig, dataset: AbstractDataset) -> tuple[dict[str, ImageStore], list[Finding]]:
    """The images of each split as training and evaluation would take them, without those that cannot be read.

    **Raises:** `FileNotFoundError` where there are no images at all.
    """
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
        findings.append(Finding("files", mark, f"{split}: {first_line(error)}"))
    for split, store in stores.items():
        if store.split != split:
            try:
                dataset.listing(split)
            except FileNotFoundError as error:
                text = f"{split}: {store.split} classes stand in for it, since {first_line(error)}"
                findings.append(Finding("files", "warning", text))
    return stores, findings


if __name__ == "__main__":
    command("doctor", main, with_data, UNREAD)
