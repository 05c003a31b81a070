"""What each wrapper adds to a learner without it: paired differences on the same test episodes, on label split 0 of Omniglot."""

from __future__ import annotations

from pathlib import Path

from tables import records
from tables.semi import DISTRACTORS

NAMES = ("paired_omniglot",)
HEADER = ["wrapper", "no distractors", "difference", "5 distractor classes", "difference"]


def reproduce(name: str, runs: Path, splits: int, options: list[str]) -> None:
    """Train five runs and score each wrapper against the run without it. There is one split, so `splits` is not read."""
    seed = ["seed=0", *options]
    where = runs / "semi_omniglot"
    plain, weighted = where / "supervised-0-0", where / "self_training-0-0"
    null, taught, averaged = (where / f"{run}-shift-0" for run in ("supervised", "mean_teacher", "average"))
    records.train(plain, "experiment=semi_omniglot", *seed)
    records.train(weighted, "experiment=semi_omniglot", "semi=self_training", *seed)
    records.train(null, "experiment=mean_teacher_omniglot", "semi=supervised", *seed)
    records.train(taught, "experiment=mean_teacher_omniglot", *seed)
    records.train(averaged, "experiment=mean_teacher_omniglot", "semi.mean_teacher.weight=0", *seed)
    compared = {
        "soft_kmeans": (plain, plain, "semi=soft_kmeans"),
        "label_propagation": (plain, plain, "semi=label_propagation"),
        "label_propagation, transductive": (
            plain,
            plain,
            "semi=label_propagation",
            "semi.label_propagation.transductive=true",
        ),
        "self_training, no weighting": (plain, plain, "semi=self_training", "semi.self_training.weighting=false"),
        "self_training, meta-learned": (weighted, plain),
        "mean_teacher": (taught, null),
        "mean_teacher, weight 0": (averaged, null),
        "label_propagation over mean_teacher": (taught, taught, "semi=[saved,label_propagation]"),
    }
    for wrapper, (run, rival, *settings) in compared.items():
        for distractors in DISTRACTORS:
            scores = records.score(run, f"against={rival}", f"task.n_distractors={distractors}", *settings)
            records.keep(f"semi/{name}", wrapper, distractors, 0, run=run, scores=scores)


def rows(name: str) -> list[list[str]]:
    """One row a wrapper: accuracy with it, and the paired difference to the learner without it."""
    made = []
    for wrapper, found in records.read(f"semi/{name}").items():
        cells = []
        for distractors in DISTRACTORS:
            scores = found[str(distractors)]["0"]
            difference, half = (100 * scores[f"test/{key}"] for key in ("difference", "difference_ci95"))
            cells += [f"{100 * scores['test/accuracy']:.2f}", f"{difference:+.2f} ± {half:.2f}"]
        made.append([wrapper, *cells])
    return made
