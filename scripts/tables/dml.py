"""Losses of embeddings side by side on the same budget: every loss once, and the best five with further seeds.

The best are those with the highest Recall@1 on the validation classes. Losses that take the hardest pairs first, and whose papers
begin with weights of ImageNet, also have softer settings, for weights that begin at random.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from tables import records

NAMES = ("dml_omniglot", "dml_miniimagenet")
HEADER = ["`loss=`", "Recall@1", "MAP@R", "5-way 1-shot", "seeds", "training, s"]
BATCHES = {  # losses that need batches or a head of their own
    "schem": ("trainer=schem",),
    "divide_and_conquer": ("trainer=divide_and_conquer", "head.normalize=true", "head.slices=4"),
}
BEST = 5
LOSSES = (
    "triplet",
    "multi_similarity",
    "contrastive",
    "margin",
    "circle",
    "supcon",
    "proxy_nca",
    "soft_triple",
    "classifier",
    "n_pair",
    "lifted_structure",
    "fastap",
    "ranked_list",
    "topk_precision",
    "upper_bound",
    "proxy_anchor",
    "schem",
    "divide_and_conquer",
)
FROM_SCRATCH = {  # of miniImageNet
    "circle_from_scratch": ("loss=circle", "loss.circle.gamma=8"),
    "multi_similarity_from_scratch": (
        "loss=multi_similarity",
        "loss.multi_similarity.epsilon=null",
        "loss.multi_similarity.beta=10",
    ),
    "margin_from_scratch": ("loss=margin", "loss.margin.triplets=all"),
}


def reproduce(name: str, runs: Path, seeds: int, options: list[str]) -> None:
    """Train every loss once, then the best five with further seeds."""
    losses = [*LOSSES, *(FROM_SCRATCH if name == "dml_miniimagenet" else ())]

    def one(loss: str, seed: int) -> float:
        run = runs / name / f"{loss}-{seed}"
        chosen = FROM_SCRATCH.get(loss, (f"loss={loss}", *BATCHES.get(loss, ())))
        settings = (f"experiment={name}", *chosen, f"seed={seed}")
        scores = records.train(run, *settings, *options)
        records.keep(f"dml/{name}", loss, seed, run=run, scores=scores)
        return json.loads(scores.read_text())["val/recall@1"]

    found = {loss: one(loss, 0) for loss in losses}
    for loss in sorted(losses, key=found.get)[-BEST:]:
        for seed in range(1, seeds):
            one(loss, seed)


def rows(name: str) -> list[list[str]]:
    """One row a loss, the best by Recall@1 first."""
    found = []
    for loss, by_seed in records.read(f"dml/{name}").items():
        of = list(by_seed.values())
        split = "test" if "test/accuracy" in of[0] else "val"
        values = [[scores[f"{split}/{key}"] for scores in of] for key in ("recall@1", "map@r", "accuracy")]
        seconds = statistics.mean(scores["train/seconds"] for scores in of)
        told = " ".join(FROM_SCRATCH.get(loss, (loss,))).removeprefix("loss=")
        cells = [f"`{told}`", *map(records.over_seeds, values), str(len(of)), f"{seconds:.0f}"]
        found.append((statistics.mean(values[0]), cells))
    return [cells for _, cells in sorted(found, key=lambda row: -row[0])]
