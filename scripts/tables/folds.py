"""A loss in cross-validation over folds of the training classes, by the protocol of Musgrave et al.

Musgrave, Belongie, Lim: *A Metric Learning Reality Check*, ECCV 2020, https://arxiv.org/abs/2003.08505.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from episodic.evaluate.intervals import repeats_interval
from episodic.evaluate.tables import percent
from tables import records

NAMES = ("folds_omniglot",)
HEADER = [
    "`loss=`",
    *(f"{kind}, {metric}" for kind in ("separated", "concatenated") for metric in ("Recall@1", "MAP@R")),
    "5-way 1-shot",
]


def reproduce(name: str, runs: Path, repeats: int, options: list[str]) -> None:
    """Cross-validate the contrastive loss."""
    run = runs / name / "contrastive"
    settings = ("experiment=dml_omniglot", "loss=contrastive", f"repeats={repeats}", *options)
    subprocess.run([sys.executable, "-m", "episodic.cross_validate", f"run={run}", *settings], check=True)
    records.write(f"dml/{name}", {"contrastive": json.loads((run / "cross_validation.json").read_text())})


def rows(name: str) -> list[list[str]]:
    """One row a loss: means over repeats, with their 95 % interval."""
    made = []
    for loss, record in records.read(f"dml/{name}").items():
        kinds = [f"{kind}/{metric}" for kind in ("separated", "concatenated") for metric in ("recall@1", "map@r")]
        made.append([f"`{loss}`", *(percent(repeats_interval(record[key])) for key in (*kinds, "separated/accuracy"))])
    return made
