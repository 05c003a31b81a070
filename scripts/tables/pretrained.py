"""Prototypical Networks from a classifier of the training classes, and from scratch: paired differences on the same episodes."""

from __future__ import annotations

from pathlib import Path

from tables import records

NAMES = ("pretrained_miniimagenet",)
HEADER = ["training", "5-way 1-shot", "difference", "steps"]
PAIRS = (("accuracy", "ci95", ""), ("difference", "difference_ci95", "+"))


def reproduce(name: str, runs: Path, splits: int, options: list[str]) -> None:
    """Train the classifier, and Prototypical Networks after it and without it. `splits` is not read."""
    where = runs / "dml_miniimagenet"
    first, scratch, after = (where / run for run in ("classifier-0", "protonet-scratch-0", "protonet-pretrained-0"))
    records.train(first, "experiment=dml_miniimagenet", "loss=classifier", "seed=0", *options)
    short = ("experiment=protonet_miniimagenet", "trainer.steps=1000", "trainer.validate_every=500", *options)
    records.train(scratch, *short)
    records.train(after, *short, f"init_from={first}")
    for row, run in (
        ("the classifier's features, by cosine", first),
        ("Prototypical Networks from scratch", scratch),
        ("Prototypical Networks from the classifier", after),
    ):
        records.keep(f"dml/{name}", row, 0, run=run, scores=records.score(run, f"against={scratch}"))


def rows(name: str) -> list[list[str]]:
    """One row a training: accuracy, and the paired difference to training from scratch."""
    made = []
    for row, found in records.read(f"dml/{name}").items():
        scores = found["0"]
        cells = [f"{100 * scores[f'val/{a}']:{sign}.2f} ± {100 * scores[f'val/{b}']:.2f}" for a, b, sign in PAIRS]
        made.append([row, cells[0], "–" if "scratch" in row else cells[1], str(scores["steps"])])
    return made
