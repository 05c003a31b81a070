"""`python -m episodic.cross_validate run=<dir> [repeats=3] [task.folds=4] <options of episodic.train>`.

Cross-validation: the training classes are divided into `task.folds` contiguous parts, and for each part a model is trained on the
others. The best checkpoint of a model is the one with the highest accuracy on its own part. Then all models are scored on the test
classes, which neither training nor the choice of checkpoints has seen (on the validation classes if there are no test classes on
disk). There are two scores:

- `separated`: the mean of the scores of the single models.
- `concatenated`: the score of all models together, whose embeddings, each of length 1, are put side by side.

Each is a mean over `repeats` trainings of all folds, with the seeds `seed`, `seed + 1`, ..., and has Student's t interval.

Musgrave, Belongie, Lim: *A Metric Learning Reality Check*, ECCV 2020, https://arxiv.org/abs/2003.08505. Departures: checkpoints are
chosen by few-shot accuracy, as everywhere in this package, where the paper takes MAP@R; the options set the length of training;
there is no search for settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from episodic.assemble.load import load_parts
from episodic.assemble.task import load_store
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.config.instantiate import target_of
from episodic.core.functional.pairs import unit
from episodic.evaluate.intervals import repeats_interval
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.tables import percent, table
from episodic.learners.learner import AbstractMetricLearner
from episodic.run.embed import embeddings_of
from episodic.run.files import write_atomically
from episodic.run.lock import WriterLock
from episodic.run.run import Run
from episodic.train.interrupt import end, handled
from episodic.train.session import train

METRICS = {
    "recall@1": "Recall@1 %",
    "r_precision": "R-precision %",
    "map@r": "MAP@R %",
    "accuracy": "few-shot accuracy %",
}

UNREAD = {"resume": "cross-validation goes on by itself with the folds that it finds in run=<dir>"}


def main(cfg: DictConfig) -> None:
    """Train the models that are not trained yet, then score them alone and together."""
    hydra = HydraConfig.get()
    choices, overrides = dict(hydra.runtime.choices), list(hydra.overrides.task)
    if cfg.repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {cfg.repeats}")
    if cfg.task.folds < 2:
        raise ConfigError(f"task.folds must be at least 2, got {cfg.task.folds}")
    if cfg.task.fold is not None:
        raise ConfigError("cross-validation trains on every fold in turn, so task.fold cannot be given")
    if not issubclass(target_of(cfg.learner, allow_any_target=cfg.allow_any_target), AbstractMetricLearner):
        raise ConfigError(f"cross-validation compares embeddings, and {cfg.learner._target_.split('.')[-1]} has none")
    with handled(end), WriterLock(Path(cfg.run)):
        cross_validate(cfg, choices, overrides)


def cross_validate(cfg: DictConfig, choices: dict[str, Any], overrides: list[str]) -> None:
    """Train and score the models of all folds and repeats, write their scores and print the table."""
    folder, seeds = Path(cfg.run), list(range(cfg.seed, cfg.seed + cfg.repeats))
    found = []
    for seed in seeds:
        runs = [
            trained(cfg, choices, overrides, folder / f"{seed}-{fold}", seed, fold) for fold in range(cfg.task.folds)
        ]
        found.append(scores_of(runs, cfg))
    last = json.loads((runs[-1].folder / "metrics.json").read_text())
    record: dict[str, Any] = {
        "folds": cfg.task.folds,
        "seeds": seeds,
        "steps": last["steps"],
        "hardware": last["hardware"],
    }
    rows = []
    for kind in ("separated", "concatenated"):
        rows.append([kind])
        for metric in METRICS:
            values = [scores[kind][metric] for scores in found if metric in scores[kind]]
            record[f"{kind}/{metric}"] = values
            rows[-1].append(percent(repeats_interval(values)) if values else "-")
    write_atomically(folder / "cross_validation.json", json.dumps(record, indent=2) + "\n")
    print(f"\n{cfg.task.folds} folds, {cfg.repeats} repeats, on classes that no model has seen\n")
    print(table(["models", *METRICS.values()], rows))


def trained(cfg: DictConfig, choices: dict[str, Any], overrides: list[str], folder: Path, seed: int, fold: int) -> Run:
    """The run of one fold. It is trained, or resumed if it was stopped. A finished run is only scored again."""
    settings = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "repeats"])
    settings.update(run=str(folder), seed=seed, resume=(folder / "config.yaml").exists())
    settings.task.fold = fold
    own = ("repeats", "seed", "run")  # what the options of a single run have otherwise
    options = [option for option in overrides if option.partition("=")[0] not in own]
    print(f"\nSeed {seed}, fold {fold}")
    try:
        train(settings, choices, [*options, f"seed={seed}", f"task.fold={fold}"])
    except SystemExit:
        print("Or give the command for cross-validation again: it goes on from here.")
        raise
    return Run(folder)


def scores_of(runs: list[Run], cfg: DictConfig) -> dict[str, dict[str, float]]:
    """The scores of the models of `runs`, one a fold, on the test classes: the mean of each alone, and all together."""
    alone: dict[str, list[float]] = {metric: [] for metric in METRICS}
    embeddings: list[Tensor] = []
    for run in runs:
        saved = run.config()
        saved.update({key: cfg[key] for key in ("device", "precision", "data_dir")})
        parts = load_parts(saved, str(run.folder), as_saved=True)
        store = load_store(parts.dataset, saved.task, "test")
        features, labels = embeddings_of(parts.learner, store, parts.normalize, parts.hardware)
        embeddings.append(unit(features))
        accuracy = json.loads((run.folder / "metrics.json").read_text())["test/accuracy"]
        for metric, value in (_retrieved(embeddings[-1], labels) | {"accuracy": accuracy}).items():
            alone[metric].append(value)
    separated = {metric: sum(values) / len(values) for metric, values in alone.items()}
    return {"separated": separated, "concatenated": _retrieved(torch.cat(embeddings, dim=1), labels)}


def _retrieved(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    intervals = retrieval(embeddings, labels).intervals
    return {metric: intervals[metric].mean for metric in METRICS if metric in intervals}


if __name__ == "__main__":
    command("cross_validate", main, unread=UNREAD)
