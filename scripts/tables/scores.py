"""The table of docs/results.md: one run of an experiment file, or of a task's defaults, a row, with its paper's figure.

    python scripts/table.py --add RUN NAME EXPERIMENT TASK PAPER

keeps the last evaluation of a run as the record `NAME.json`, with how the run was trained.
"""

from __future__ import annotations

import json
from pathlib import Path

from episodic.run.run import Run
from tables import records

HEADER = ["command", "protocol", "classes scored", "paper (test)", "ours", "over classes", "training"]
PARTS = {"new": "novel", "base": "base", "Δ": "delta"}


def rows(name: str) -> list[list[str]]:
    """One row a record, in the order of their file names."""
    made = []
    for path in sorted(records.RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        split = "test" if "test/accuracy" in record else "val"
        accuracy, half, classes = (record[f"{split}/{key}"] for key in ("accuracy", "ci95", "class_ci95"))
        ours = f"{100 * accuracy:.2f} ± {100 * half:.2f}"
        if f"{split}/delta" in record:
            parts = (f"{kind} {100 * record[f'{split}/{key}']:.1f}" for kind, key in PARTS.items())
            ours += f" ({', '.join(parts)} ± {100 * record[f'{split}/delta_ci95']:.1f})"
        seconds, images = (
            record.get(f"train/{what}", 0) + record.get(f"pretrain/{what}", 0) for what in ("seconds", "images")
        )
        seen = f"{images / 1e6:.2f} M images, " if images else ""
        experiment = f"`experiment={record['experiment']}`, " if record["experiment"] else ""
        made.append(
            [
                f"{experiment}`task={record['task']}`",
                f"{record[f'{split}/protocol']}; {record[f'{split}/episodes']:,} episodes",
                f"{split}, {record[f'{split}/classes']} ({record[f'{split}/split_name']})",
                record["paper"],
                ours,
                f"{100 * classes[0]:.1f} to {100 * classes[1]:.1f}",
                f"{seen}{seconds / 60:.0f} min, {record['train/hardware']}",
            ]
        )
    return made


def add(run: Path, name: str, experiment: str, task: str, paper: str) -> None:
    """Keep the last evaluation of a run as a record. `experiment` is empty for a task's own defaults."""
    trained = json.loads((run / "metrics.json").read_text())
    scored = json.loads(Run(run).evaluations()[-1].read_text())
    how = {"experiment": experiment, "task": task, "paper": paper, "train/hardware": trained["hardware"]}
    kept = {key: trained[key] for key in ("steps", "best_step", "train/seconds", "train/classes", "train/class_hash")}
    kept |= {key: trained[key] for key in ("train/images", "pretrain/images", "pretrain/seconds") if key in trained}
    scored = {key: value for key, value in scored.items() if key not in ("run", "options", "date")}
    records.write(name, {**how, **kept, "train/seed": trained["seed"], **scored}, indent=2)
