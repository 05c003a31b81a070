"""The table of Ren et al.: five methods of semi-supervised learning, without and with 5 distractor classes, over label splits.

Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel: *Meta-Learning for Semi-Supervised Few-Shot Classification*,
ICLR 2018, https://arxiv.org/abs/1803.00676. Split s is a run with `task.labeled_seed=s seed=s`.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from tables import records

NAMES = ("semi_omniglot", "semi_glyphs", "semi_miniimagenet")
TRAINED = ("soft_kmeans", "soft_kmeans_cluster", "masked_soft_kmeans")
DISTRACTORS = (0, 5)
HEADER = ["method", "no distractors", "paper", "5 distractor classes", "paper", "splits", "right, of the weight given"]
PAPER = {  # without and with distractors
    "semi_omniglot": {
        "supervised": ("94.62", "94.62"),
        "semi-supervised inference": ("97.45", "95.08"),
        "soft_kmeans": ("97.25", "95.01"),
        "soft_kmeans_cluster": ("97.68", "97.17"),
        "masked_soft_kmeans": ("97.52", "97.30"),
    },
    "semi_miniimagenet": {
        "supervised": ("43.61", "43.61"),
        "semi-supervised inference": ("48.98", "47.42"),
        "soft_kmeans": ("50.09", "48.70"),
        "soft_kmeans_cluster": ("49.03", "48.86"),
        "masked_soft_kmeans": ("50.41", "49.04"),
    },
}


def reproduce(name: str, runs: Path, splits: int, options: list[str]) -> None:
    """Train and score every cell. Without distractors and with them, the supervised learner is the same run."""
    record = f"semi/{name}"
    for split in range(splits):
        seeds = [f"experiment={name}", f"task.labeled_seed={split}", f"seed={split}", *options]
        where = runs / name
        plain = where / f"supervised-0-{split}"
        records.train(plain, *seeds)
        for distractors in DISTRACTORS:
            task = f"task.n_distractors={distractors}"
            records.keep(record, "supervised", distractors, split, run=plain, scores=records.score(plain, task))
            inference = records.score(plain, task, "semi=soft_kmeans")
            records.keep(record, "semi-supervised inference", distractors, split, run=plain, scores=inference)
            for method in TRAINED:
                run = where / f"{method}-{distractors}-{split}"
                scores = records.train(run, *seeds, f"semi={method}", task)
                records.keep(record, method, distractors, split, run=run, scores=scores)


def rows(name: str) -> list[list[str]]:
    """One row a method: the mean over label splits, with their standard deviation, beside the paper's figure."""
    made = []
    for method, found in records.read(f"semi/{name}").items():
        cells, purity, splits = [], [], set()
        for i, distractors in enumerate(DISTRACTORS):
            of = list(found.get(str(distractors), {}).values())
            split = "val" if of and "val/accuracy" in of[0] else "test"
            cells.append(records.over_seeds([scores[f"{split}/accuracy"] for scores in of]) if of else "–")
            cells.append(PAPER.get(name, {}).get(method, ("–", "–"))[i])
            splits.add(str(len(of)))
            if of and f"{split}/unlabeled_purity" in of[0]:
                purity.append(f"{statistics.mean(100 * scores[f'{split}/unlabeled_purity'] for scores in of):.1f}")
        made.append([method, *cells, "/".join(sorted(splits)), " / ".join(purity) or "–"])
    return made
