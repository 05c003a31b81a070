"""Pseudo-labels for a whole training set: the stage of Iscen et al., what it starts from, and a control.

Iscen, Tolias, Avrithis, Chum: *Label Propagation for Deep Semi-supervised Learning*, CVPR 2019, https://arxiv.org/abs/1904.04717.
The control trains for as many steps without pseudo-labels.
"""

from __future__ import annotations

from pathlib import Path

from tables import records

NAMES = ("pseudo_labels_omniglot",)
HEADER = [
    "training on 1,028 characters",
    "its classifier, on held-out drawings",
    "5-way 1-shot, new characters",
    "pseudo-labels right, %",
    "s a refresh",
    "steps",
]


def reproduce(name: str, runs: Path, splits: int, options: list[str]) -> None:
    """Train a classifier on 2 drawings a character, then with pseudo-labels for the others, and the control. No `splits`."""
    where = runs / name
    trainings = {
        "labeled drawings only": ("labeled", "experiment=base_omniglot_labeled"),
        "as many steps more, without pseudo-labels": (
            "control",
            "experiment=pseudo_labels_omniglot",
            f"init_from={where / 'labeled'}",
            "semi.pseudo_labels.unlabeled_weight=0",
        ),
        "as many steps more, with pseudo-labels": (
            "pseudo_labels",
            "experiment=pseudo_labels_omniglot",
            f"init_from={where / 'labeled'}",
        ),
    }
    for row, (run, *settings) in trainings.items():
        records.train(where / run, *settings, *options)
        scores = records.score(where / run, "episodes=10000")
        records.keep(f"semi/{name}", row, 0, 0, run=where / run, scores=scores)


def rows(name: str) -> list[list[str]]:
    """One row a training: its classifier on unseen images of its classes, and the few-shot accuracy of new classes."""
    made = []
    for row, found in records.read(f"semi/{name}").items():
        scores = found["0"]["0"]
        cells = [
            f"{100 * scores[f'test/{key}']:.2f} ± {100 * scores[f'test/{key}_ci95']:.2f}"
            for key in ("base_alone", "novel_alone")
        ]
        right, seconds = (scores.get(f"train/{key}") for key in ("pseudo_label_accuracy", "refresh_seconds"))
        cells += [f"{100 * right:.1f}" if right else "–", f"{seconds:.1f}" if seconds else "–"]
        made.append([row, *cells, str(scores["steps"])])
    return made
