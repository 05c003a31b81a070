"""The table of docs/results.md: one command a row, with its paper's figure.

    python scripts/table.py --add NAME RUN [RUN ...]    # runs of one command that differ in their seeds
    python scripts/reproduce.py NAME --splits 3         # trains and scores a record's command again

A record says the command, what the last evaluation of the first run found, how that run was trained, and the accuracy of each seed.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from episodic.evaluate.published import published
from episodic.run.run import Run
from episodic.run.tensorboard import read_curves
from episodic.train.pretraining import FOLDER
from tables import records

HEADER = ["command", "protocol", "classes scored", "paper (test)", "ours", "over classes", "over seeds", "training"]
PARTS = {"new": "novel", "base": "base", "Δ": "delta"}
OF_THE_PLACE = ("run", "seed", "data_dir", "device", "resume", "split", "audit", "against", "episodes")
KEPT = (
    "steps",
    "best_step",
    "train/seconds",
    "train/images",
    "train/classes",
    "train/class_hash",
    "pretrain/seconds",
    "pretrain/images",
)


def rows(name: str) -> list[list[str]]:
    """One row a record, in the order of their file names."""
    made = []
    for path in sorted((path for folder in records.folders() for path in folder.glob("*.json")), key=lambda p: p.stem):
        record = json.loads(path.read_text())
        split = split_of(record)
        accuracy, half, classes = (record[f"{split}/{key}"] for key in ("accuracy", "ci95", "class_ci95"))
        ours = f"{100 * accuracy:.2f} ± {100 * half:.2f}"
        if f"{split}/delta" in record:
            parts = (f"{kind} {100 * record[f'{split}/{key}']:.1f}" for kind, key in PARTS.items())
            ours += f" ({', '.join(parts)} ± {100 * record[f'{split}/delta_ci95']:.1f})"
        seeds = list(record["seeds"].values())
        seconds, images = (
            record.get(f"train/{what}", 0) + record.get(f"pretrain/{what}", 0) for what in ("seconds", "images")
        )
        seen = f"{images / 1e6:.2f} M images, " if images else ""
        made.append(
            [
                command(record),
                f"{record[f'{split}/protocol']}; {record[f'{split}/episodes']:,} episodes",
                f"{split}, {record[f'{split}/classes']} ({record[f'{split}/split_name']})",
                record["paper"],
                ours,
                f"{100 * classes[0]:.1f} to {100 * classes[1]:.1f}",
                f"{records.over_seeds(seeds)} ({len(seeds)})" if len(seeds) > 1 else "–",
                f"{seen}{seconds / 60:.0f} min, {record['train/hardware']}",
            ]
        )
    return made


def command(record: dict[str, Any]) -> str:
    """What is typed: the options of training, and of evaluation where it has any."""
    trained, scored = (record[f"{what}_options"] for what in ("train", "evaluate"))
    return f"`{' '.join(['train', *trained])}`" + (f", `evaluate {' '.join(scored)}`" if scored else "")


def split_of(record: dict[str, Any]) -> str:
    return "test" if "test/accuracy" in record else "val"


def add(name: str, runs: list[Path]) -> None:
    """Keep the last evaluation of the first run as the record `name`, and the accuracy of each.

    **Raises:** `ValueError` for runs of different commands.
    """
    kept: dict[str, Any] = {}
    for run in runs:
        trained, scored = (json.loads(p.read_text()) for p in (run / "metrics.json", Run(run).evaluations()[-1]))
        options = {"train_options": told(Run(run).options()), "evaluate_options": told(scored["options"])}
        hardware = {"train/hardware": trained["hardware"], "train/seed": trained["seed"]}
        how = {key: trained[key] for key in KEPT if key in trained}
        scored = {key: value for key, value in scored.items() if key not in ("run", "options", "date")}
        if not kept:
            kept = {**options, "paper": paper(trained, options["evaluate_options"]), **hardware, **how, **scored}
            kept |= {"seeds": {}, "curve": curve(run)}
        if any(kept[key] != value for key, value in options.items()):
            raise ValueError(f"{run} is of another command than {runs[0]}: {options}")
        kept["seeds"][str(trained["seed"])] = scored[f"{split_of(scored)}/accuracy"]
    records.write(name, kept, indent=2)


def curve(run: Path) -> list[list[tuple[float, int, float]]]:
    """Minutes, images seen and accuracy on validation classes, for each point of each stage; of the first stage first.

    A stage's time is dealt to its steps alike, so that pauses of a training that was stopped and resumed do not count.
    """
    first = run / FOLDER
    stages = curve(first) if first.is_dir() else []
    trained = json.loads((run / "metrics.json").read_text())
    if "val/accuracy" not in (curves := read_curves(run)):
        return stages
    before = [trained.get(f"pretrain/{what}", 0) for what in ("seconds", "images")]
    whole = [trained.get(f"train/{what}", 0) for what in ("seconds", "images")]
    own = []
    for step, accuracy in zip(*curves["val/accuracy"], strict=True):
        seconds, images = (b + w * int(step) / trained["steps"] for b, w in zip(before, whole, strict=True))
        own.append((round(seconds / 60, 2), round(images), round(float(accuracy), 4)))
    return [*stages, own]


def told(options: list[str]) -> list[str]:
    """The options that say what was done, not where."""
    own = (option for option in options if option.partition("=")[0] not in OF_THE_PLACE)
    return [option for option in own if not option.endswith("=saved")]


def paper(trained: dict[str, Any], evaluated: list[str]) -> str:
    """The paper's figure for what was scored, where there is one for just that."""
    tasks = [option.removeprefix("task=") for option in evaluated if option.startswith("task=")]
    if trained["semi"] != "supervised" or len(tasks) < len(evaluated):
        return "–"
    found = published((tasks or [trained["task"]])[0], trained["learner"], trained["backbone"])
    return f"{found.percent:.1f}" if found else "–"


def reproduce(name: str, runs: Path, splits: int, options: list[str]) -> None:
    """Train and score the command of a record with `splits` seeds, and say what the record had."""
    record = records.read(name)
    trained = []
    for seed in range(splits):
        run = runs / name / str(seed)
        records.train(run, *record["train_options"], f"seed={seed}", *options)
        records.score(run, *record["evaluate_options"], "episodes=10000")
        trained.append(run)
    add(name, trained)
    before, now = (statistics.mean(found["seeds"].values()) for found in (record, records.read(name)))
    print(f"{name}: {100 * now:.2f} %, mean of {splits} seeds; the record had {100 * before:.2f} %")
