"""`python -m episodic.report run=<dir> [against=<dir>] [task=...] [episodes=2000] [split=test] [out=<dir>]`."""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from episodic.assemble.learner import Parts
from episodic.assemble.load import load_parts, with_saved_parts
from episodic.assemble.task import episode_shape, load_store
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.config.paths import bare
from episodic.data.dataset import SPLITS
from episodic.data.store import ImageStore
from episodic.episodes.source import Episodes
from episodic.evaluate.manifest import episodes_of
from episodic.evaluate.tables import percent, protocol, record
from episodic.report.measurements import Findings, measure
from episodic.report.page import KINDS, Report, build_page
from episodic.report.plane import Plane, plane
from episodic.report.plots import CLASS_COLOURS
from episodic.run.run import Run, write_atomically
from episodic.run.tensorboard import read_curves


def with_run(arguments: list[str]) -> list[str]:
    """As for `episodic.evaluate`, whose parts a report is made of."""
    if not any(a.startswith(("run=", "-")) for a in arguments):
        raise ConfigError("which run? python -m episodic.report run=<dir>, a directory that episodic.train made")
    return with_saved_parts(arguments)


def main(cfg: DictConfig) -> None:
    """Measure a run, and where `against` names another, both on the same episodes; write the page and its pictures."""
    if cfg.split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {cfg.split!r}")
    parts, out = load_parts(cfg, cfg.run), Path(cfg.out or Path(cfg.run) / "report")
    with writing(out):  # better refused now than after minutes
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    rival = load_parts(cfg, cfg.against, as_saved=True) if cfg.against else None
    store = load_store(parts.dataset, cfg.task, cfg.split)
    episodes = episodes_of(cfg, store)
    name = Path(cfg.run).resolve().name
    measured = {name: measured_by(parts, store, episodes)}
    if rival:
        other = Path(cfg.against).resolve().name
        measured[other if other != name else f"{cfg.against} (against)"] = measured_by(rival, store, episodes)
    ours = measured[name].evaluation
    metrics = {"run": str(cfg.run), "seed": cfg.seed} | record(ours, store, episode_shape(cfg.task))
    with writing(out):
        Run(out).write_metrics(metrics, "report.json")
    versions = json.loads((out / "report.json").read_text())["versions"]
    page, pictures = build_page(
        Report(
            title=f"{summary(cfg, cfg.run)}: {percent(ours.interval)} %",
            protocol=f"{protocol(episode_shape(cfg.task), ours.transductive)}; {len(ours.accuracies):,} episodes of "
            f"{store.dataset} {store.split}",
            caution=caution(cfg, store),
            facts=facts(cfg, parts),
            store=store,
            measured=measured,
            curves=read_curves(Path(cfg.run)),
            protocols=protocols(Run(Path(cfg.run)).config()),
            plane=plane_of(parts, store, measured[name]),
            command=shlex.join(["python", "-m", "episodic.report", *map(bare, HydraConfig.get().overrides.task)]),
            made={
                "episodes": f"{len(ours.accuracies):,}, hash {ours.episodes_hash}",
                "classes": f"{len(store.class_names):,} ({store.split_name}, {store.class_hash})",
                "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
            },
        )
    )
    with writing(out):
        for picture in pictures:
            (out / f"{picture.name}.png").write_bytes(picture.light)
            (out / f"{picture.name}-dark.png").write_bytes(picture.dark)
        write_atomically(out / "report.html", page)
    print(f"{summary(cfg, cfg.run)}: {percent(ours.interval)} %\n{out / 'report.html'}")


def measured_by(parts: Parts, store: ImageStore, episodes: Episodes) -> Findings:
    return measure(parts.learner, store, episodes, parts.normalize, parts.hardware, progress=True)


def plane_of(parts: Parts, store: ImageStore, found: Findings) -> Plane | None:
    """Embeddings of up to ten classes, at even ranks from the hardest to the easiest."""
    order = found.tally.hardest
    ranks = np.linspace(0, len(order) - 1, min(len(CLASS_COLOURS), len(order))).round().astype(int)
    return plane(parts.learner, store, order[ranks].tolist(), parts.normalize, parts.hardware)


def caution(cfg: DictConfig, store: ImageStore) -> str:
    """What the reader should know of the classes: whether they stand in for others, and what training had of them."""
    said, run = [], Run(Path(cfg.run))
    if store.split != cfg.split:
        said.append(
            f"There are no {KINDS[cfg.split]} classes on disk; the {KINDS[store.split]} classes stand in for them."
        )
    if run.config().task.dataset._target_ != cfg.task.dataset._target_:
        return " ".join(said)  # training had none of them
    if store.split == "train":
        said.append("The run was trained on these classes, so the figures say little of new ones.")
    if store.split == "val" and run.has("best"):
        said.append("Validation chose the best checkpoint on these classes, so the figures are a little optimistic.")
    return " ".join(said)


def protocols(saved: DictConfig) -> dict[str, str]:
    """What the accuracies among the training curves of a run are of, by tag."""
    trained, validated = (protocol(episode_shape(task), False).split(",")[0] for task in (saved.task.train, saved.task))
    if target_of(saved.trainer) == "MetricTrainer":
        trained = "nearest image in the batch"
    if "pseudo_labels" in saved.semi:
        trained = "labeled images, all classes"
    return {"train/accuracy": trained, "val/accuracy": validated}


def facts(cfg: DictConfig, parts: Parts) -> dict[str, str]:
    """What the run is, by name; learner and wrapper as they are measured."""
    saved, metrics = Run(Path(cfg.run)).config(), written(Path(cfg.run))
    best = f", the best of step {metrics['best_step']:,}" if isinstance(metrics.get("best_step"), int) else ""
    found = {
        "run": str(cfg.run),
        "trained for": f"{metrics.get('task', '')} {described(saved.task.dataset)}".strip(),
        "learner": described(cfg.learner),
        "backbone": described(saved.backbone)
        + (f", {described(saved.head)}" if len(saved.get("head", {})) > 1 else ""),
        "trained by": f"{described(saved.trainer)}; losses: {'+'.join(saved.get('loss', {})) or 'cross_entropy'}",
        "wrapper": ", ".join(described(node) for name, node in cfg.semi.items() if name != "supervised") or "none",
        "began from": saved.get("start") or "",
        "steps": f"{metrics.get('steps', saved.trainer.steps):,}{best}",
        "seed": f"{saved.seed} (training), {cfg.seed} (episodes)",
        "trained on": str(metrics.get("hardware", "")),
        "measured on": parts.hardware.describe(),
    }
    if cfg.against:
        other = Run(Path(cfg.against)).config()
        begun = f", began from {other.start}" if other.get("start") else ""
        found["against"] = f"{cfg.against}: {summary(other, cfg.against)}{begun}"
    return found


def summary(cfg: DictConfig, folder: str) -> str:
    """Task, learner with its wrappers, and backbone, in a few words; `cfg` has the learner and the wrappers."""
    saved, metrics = Run(Path(folder)).config(), written(Path(folder))
    wrappers = "".join(f" + {name}" for name in cfg.semi if name != "supervised")
    task = metrics.get("task") or saved.task.dataset._target_.split(".")[-1]
    return f"{task}: {target_of(cfg.learner)}{wrappers} on {target_of(saved.backbone)}"


def target_of(node: DictConfig) -> str:
    return str(node.get("_target_", "?")).split(".")[-1]


def described(node: DictConfig) -> str:
    """The name of a part and its settings."""
    plain = OmegaConf.to_container(node, resolve=True)
    settings = [f"{name}={value}" for name, value in plain.items() if not name.startswith("_")]
    return f"{target_of(node)}({', '.join(settings)})"


def written(folder: Path) -> dict[str, Any]:
    """What training left in `metrics.json`; empty where it did not come to its end."""
    try:
        found = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """**Raises:** `OSError` that names the folder and what to do, where what is done inside fails to write."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"the report cannot be written to {out} ({reason}); out=<dir> takes another folder") from None


if __name__ == "__main__":
    command("report", main, with_run)
