"""Writes the results table of the README from the run records in `scripts/results`.

    python scripts/table.py                       # rewrites the table
    python scripts/table.py --check               # fails where the README says otherwise
    python scripts/table.py --add RUN NAME EXPERIMENT TASK PAPER   # first keeps the last evaluation of a run

A record holds what `episodic.evaluate` found and how the run was trained.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
MARKS = ("<!-- results -->", "<!-- /results -->")
HEADER = ["command", "protocol", "classes scored", "paper (test)", "ours", "over classes", "training"]


def rows() -> list[list[str]]:
    """One row a record, in the order of their file names."""
    made = []
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        split = "test" if "test/accuracy" in record else "val"
        accuracy, half, classes = (record[f"{split}/{key}"] for key in ("accuracy", "ci95", "class_ci95"))
        minutes = record["train/seconds"] / 60
        made.append(
            [
                f"`experiment={record['experiment']}`, `task={record['task']}`",
                f"{record[f'{split}/protocol']}; {record[f'{split}/episodes']:,} episodes",
                f"{split}, {record[f'{split}/classes']} ({record[f'{split}/split_name']})",
                record["paper"],
                f"{100 * accuracy:.2f} ± {100 * half:.2f}",
                f"{100 * classes[0]:.1f} to {100 * classes[1]:.1f}",
                f"{minutes:.0f} min, {record['train/hardware']}",
            ]
        )
    return made


def markdown() -> str:
    """The table, as it stands in the README between its marks."""
    lines = [HEADER, ["---"] * len(HEADER), *rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def add(run: Path, name: str, experiment: str, task: str, paper: str) -> None:
    """Keep the scores of a run (its last evaluation) as a record, with how it was trained."""
    trained = json.loads((run / "metrics.json").read_text())
    scored = json.loads((run / "evaluation.json").read_text())
    how = {"experiment": experiment, "task": task, "paper": paper, "train/hardware": trained["hardware"]}
    kept = {key: trained[key] for key in ("steps", "best_step", "train/seconds", "train/classes", "train/class_hash")}
    scored.pop("run")
    record = {**how, **kept, "train/seed": trained["seed"], **scored}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", nargs=5, metavar=("RUN", "NAME", "EXPERIMENT", "TASK", "PAPER"))
    arguments = parser.parse_args()
    if arguments.add:
        run, name, *how = arguments.add
        add(Path(run), name, *how)
    text = README.read_text()
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    made = f"{before}{MARKS[0]}\n{markdown()}\n{MARKS[1]}{after}"
    if arguments.check and made != text:
        sys.exit("the README's results table is not what scripts/results says: run python scripts/table.py")
    README.write_text(made)


if __name__ == "__main__":
    main()
