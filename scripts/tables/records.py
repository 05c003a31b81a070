"""The run records in `scripts/results`: training and scoring the runs of a table, and what is kept of them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from episodic.run.run import Run

RESULTS = Path(__file__).parents[1] / "results"
further: list[Path] = []  # folders with more records of commands, of runs that were made elsewhere
KEPT = (  # scores that a record keeps; those whose names begin so
    "accuracy",
    "ci95",
    "difference",
    "episodes",
    "episodes_hash",
    "protocol",
    "classes",
    "split_name",
    "class_hash",
    "unlabeled",
    "base_alone",
    "novel_alone",
    "recall@",
    "r_precision",
    "map@r",
    "queries",
)
HOW = (  # what a record keeps of the training
    "seed",
    "steps",
    "best_step",
    "train/seconds",
    "train/pseudo_label_accuracy",
    "train/refresh_seconds",
    "hardware",
)


def train(run: Path, *options: str) -> Path:
    """Train a run and return the file of its scores. A run that has ended is not made again; one that was stopped goes on."""
    if not (run / "metrics.json").exists():
        further = ["resume=true"] if (run / "config.yaml").exists() else []
        subprocess.run([sys.executable, "-m", "episodic.train", f"run={run}", *options, *further], check=True)
    return run / "metrics.json"


def score(run: Path, *options: str) -> Path:
    """Evaluate a run once more and return the file of these scores."""
    subprocess.run([sys.executable, "-m", "episodic.evaluate", f"run={run}", *options], check=True)
    return Run(run).evaluations()[-1]


def folders() -> list[Path]:
    """Where records of commands lie."""
    return [RESULTS, *further]


def read(name: str) -> dict[str, Any]:
    """The record `<name>.json`; empty where there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(name: str, record: dict[str, Any], indent: int = 1) -> None:
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=indent) + "\n")


def keep(name: str, *place: str | int, run: Path, scores: Path) -> None:
    """Put the scores on the test classes, or on the validation classes where there are none, at `place` in a record."""
    record = read(name)
    trained, scored = json.loads((run / "metrics.json").read_text()), json.loads(scores.read_text())
    split = "test" if "test/accuracy" in scored else "val"
    wanted = {key: value for key, value in scored.items() if key.removeprefix(f"{split}/").startswith(KEPT)}
    how = {key: trained[key] for key in HOW if key in trained}
    within = record
    for key in place[:-1]:
        within = within.setdefault(str(key), {})
    within[str(place[-1])] = {**how, **wanted}
    write(name, record)


def over_seeds(values: list[float]) -> str:
    """The mean in percent, and the standard deviation where there are several values."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean
