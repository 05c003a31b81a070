"""Draw the figures of docs/results.md from the run records in `scripts/results`.

    python scripts/figures.py

`docs/minutes.svg` has the accuracy on miniImageNet's validation classes against the minutes of training, in one color for each
record that has a curve, a line for each stage. It is the accuracy that training itself measures, on 600 episodes.

`docs/shots.svg` has the accuracy there against the number of shots, a line for each training with records in
`scripts/results/shots`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tables import records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent.parent / "docs"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")  # Okabe and Ito
SHAPE = "5-way 1-shot"


def drawn(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with a curve of 5-way 1-shot episodes of miniImageNet's validation classes, one a training, the best first."""
    mine = [
        record
        for record in found
        if record.get("curve") and record.get("val/dataset") == "miniimagenet" and not record["evaluate_options"]
    ]
    mine = [record for record in mine if record["val/protocol"].startswith(SHAPE)]
    return sorted(mine, key=lambda record: -record["val/accuracy"])


def minutes(found: list[dict[str, Any]]) -> Figure:
    """Accuracy against minutes of training."""
    figure, ax = empty("minutes of training", f"miniImageNet, 16 validation classes, {SHAPE}")
    for record, color in zip(drawn(found), COLORS, strict=False):
        label = f"{' '.join(record['train_options'])} ({record['train/hardware']})"
        for number, stage in enumerate(record["curve"]):
            x, y = zip(*((time, 100 * accuracy) for time, _, accuracy in stage), strict=True)
            ax.plot(x, y, marker="o", markersize=3, color=color, label=label if number == 0 else None)
    if ax.lines:
        ax.legend(fontsize=7, frameon=False)
    return figure


def shots(found: list[dict[str, Any]]) -> Figure:
    """Accuracy against the number of labeled examples a class, with intervals over episodes."""
    figure, ax = empty("shots (labeled examples a class)", "miniImageNet, 16 validation classes, 5-way")
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for record in found:
        shot = int(re.search(r"(\d+)-shot", record["val/protocol"])[1])
        point = shot, 100 * record["val/accuracy"], 100 * record["val/ci95"]
        lines.setdefault(" ".join(record["train_options"]), []).append(point)
    for (label, points), color in zip(sorted(lines.items()), COLORS, strict=False):
        x, y, reach = zip(*sorted(points), strict=True)
        ax.errorbar(x, y, reach, marker="o", markersize=3, color=color, label=label)
    if lines:
        ax.set_xscale("log")
        ticks = sorted({shot for points in lines.values() for shot, *_ in points})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.legend(fontsize=7, frameon=False)
    return figure


def empty(across: str, title: str) -> tuple[Figure, Axes]:
    """A figure without data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.add_subplot()
    ax.set_xlabel(across)
    ax.set_ylabel("accuracy, %")
    ax.set_title(title, loc="left", fontsize=10)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def read(*folders: Path) -> list[dict[str, Any]]:
    """The records in folders."""
    return [json.loads(path.read_text()) for folder in folders for path in sorted(folder.glob("*.json"))]


def main() -> None:
    figures = {"minutes": minutes(read(*records.folders())), "shots": shots(read(records.RESULTS / "shots"))}
    for name, figure in figures.items():
        figure.savefig(DOCS / f"{name}.svg", metadata={"Date": None})
        print(DOCS / f"{name}.svg")


if __name__ == "__main__":
    main()
