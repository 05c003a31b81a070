"""Sentences and short facts about a run, for the head of its report."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from episodic.assemble.learner import Parts
from episodic.assemble.task import episode_shape
from episodic.config.instantiate import target_of
from episodic.data.store import ImageStore
from episodic.evaluate.tables import protocol
from episodic.report.page import KINDS
from episodic.run.run import Run


def caution(cfg: DictConfig, store: ImageStore) -> str:
    """What the reader should know of the classes: whether they replace others, and whether training or validation used them."""
    said, run = [], Run(Path(cfg.run))
    if store.split != cfg.split:
        said.append(
            f"There are no {KINDS[cfg.split]} classes on disk; the {KINDS[store.split]} classes stand in for them."
        )
    if run.config().task.dataset._target_ != cfg.task.dataset._target_:
        return " ".join(said)  # of another data set, so training had no class of it
    if store.split == "train":
        said.append("The run was trained on these classes, so the figures say little of new ones.")
    if store.split == "val" and run.has("best"):
        said.append("Validation chose the best checkpoint on these classes, so the figures are a little optimistic.")
    return " ".join(said)


def protocols(saved: DictConfig, *, allow_any_target: bool = False) -> dict[str, str]:
    """The episodes that the accuracies in the training curves are measured on, in words, for each tag.

    A training procedure that draws no episodes says itself what its accuracy is of (`accuracy_of`).
    """
    shape = episode_shape(saved.task)
    shapes = (shape | episode_shape(saved.task.train), shape)
    trained, validated = (protocol(each, False).split(",")[0] for each in shapes)
    of_procedure = target_of(saved.trainer, allow_any_target=allow_any_target).accuracy_of
    return {"train/accuracy": of_procedure or trained, "val/accuracy": validated}


def facts(cfg: DictConfig, parts: Parts) -> dict[str, str]:
    """The facts about a run by name. Learner and wrapper are those that were measured, which may differ from the trained ones."""
    saved, metrics = Run(Path(cfg.run)).config(), Run(Path(cfg.run)).metrics()
    done = metrics.get("steps")
    best = f", the best of step {metrics['best_step']:,}" if isinstance(metrics.get("best_step"), int) else ""
    found = {
        "run": str(cfg.run),
        "trained for": f"{metrics.get('task', '')} {describe(saved.task.dataset)}".strip(),
        "learner": describe(cfg.learner),
        "backbone": describe(saved.backbone) + (f", {describe(saved.head)}" if len(saved.get("head", {})) > 1 else ""),
        "trained by": f"{describe(saved.trainer)}; losses: {'+'.join(saved.get('loss', {})) or 'cross_entropy'}",
        "wrapper": ", ".join(describe(node) for name, node in cfg.semi.items() if name != "supervised") or "none",
        "began from": saved.init_from or "",
        "steps": f"{done if isinstance(done, int) else saved.trainer.steps:,}{best}",
        "seed": f"{saved.seed} (training), {cfg.seed} (episodes)",
        "trained on": str(metrics.get("hardware", "")),
        "measured on": parts.hardware.describe(),
    }
    if cfg.against:
        other = Run(Path(cfg.against)).config()
        begun = f", began from {other.init_from}" if other.init_from else ""
        found["against"] = f"{cfg.against}: {summary(other, cfg.against)}{begun}"
    return found


def summary(cfg: DictConfig, folder: str) -> str:
    """Task, learner, wrappers and backbone in a few words. Learner and wrappers are those of `cfg`, the rest is that of the run."""
    saved, metrics = Run(Path(folder)).config(), Run(Path(folder)).metrics()
    wrappers = "".join(f" + {name}" for name in cfg.semi if name != "supervised")
    task = metrics.get("task") or saved.task.dataset._target_.split(".")[-1]
    return f"{task}: {class_name(cfg.learner)}{wrappers} on {class_name(saved.backbone)}"


def class_name(node: DictConfig) -> str:
    return str(node.get("_target_", "?")).split(".")[-1]


def describe(node: DictConfig) -> str:
    """The class of a part, and its settings in parentheses."""
    plain = OmegaConf.to_container(node, resolve=True)
    settings = [f"{name}={value}" for name, value in plain.items() if not name.startswith("_")]
    return f"{class_name(node)}({', '.join(settings)})"
