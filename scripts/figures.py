"""Draw the figures of docs/results.md from the run records in `scripts/results`.

    python scripts/figures.py

`docs/minutes.svg` has the accuracy on miniImageNet's validation classes against the minutes of training, in one color for each
record that has a curve, a line for each stage. It is the accuracy that training itself measures, on 600 episodes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tables import records, scores

if TYPE_CHECKING:
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.add_subplot()
    for record, color in zip(drawn(found), COLORS, strict=False):
        label = f"{' '.join(record['train_options'])} ({record['train/hardware']})"
        for number, stage in enumerate(record["curve"]):
            x, y = zip(*((time, 100 * accuracy) for time, _, accuracy in stage), strict=True)
            ax.plot(x, y, marker="o", markersize=3, color=color, label=label if number == 0 else None)
    ax.set_xlabel("minutes of training")
    ax.set_ylabel("accuracy, %")
    ax.set_title(f"miniImageNet, 16 validation classes, {SHAPE}", loc="left", fontsize=10)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.lines:
        ax.legend(fontsize=7, frameon=False)
    return figure


def main() -> None:
    found = [json.loads(path.read_text()) for folder in records.folders() for path in sorted(folder.glob("*.json"))]
    minutes(found).savefig(DOCS / "minutes.svg", metadata={"Date": None})
    print(f"{DOCS / 'minutes.svg'}: {', '.join(scores.command(record) for record in drawn(found))}")


if __name__ == "__main__":
    main()
