"""What an exchange of rows (stochastic shared embeddings) adds to losses with a table: paired differences, seed by seed."""

from __future__ import annotations

from pathlib import Path

from episodic.evaluate.intervals import repeats_interval
from tables import records

NAMES = ("sse_omniglot",)
HEADER = ["", "5-way 1-shot", "difference", "Recall@1", "difference", "seeds"]


def reproduce(name: str, runs: Path, seeds: int, options: list[str]) -> None:
    """Train losses with a table, with each exchange of its rows and without, seed by seed."""
    where = runs / "dml_omniglot"
    for loss in ("proxy_nca", "classifier"):
        for seed in range(seeds):
            rivals = {"none": where / f"{loss}-{seed}"}
            rivals |= {exchange: where / f"{loss}-{exchange}-{seed}" for exchange in ("se", "graph")}
            for exchange, run in rivals.items():
                settings = ("experiment=dml_omniglot", f"loss={loss}", f"sse={exchange}", f"seed={seed}")
                records.train(run, *settings, *options)
                scores = records.score(run, "retrieval=true", f"against={rivals['none']}")
                records.keep(f"dml/{name}", loss, exchange, seed, run=run, scores=scores)


def rows(name: str) -> list[list[str]]:
    """One row a loss and exchange: means over seeds, and the mean difference to no exchange with its 95 % interval over seeds."""
    made = []
    for loss, exchanges in records.read(f"dml/{name}").items():
        for exchange, found in exchanges.items():
            cells = []
            for key in ("accuracy", "recall@1"):
                values = {seed: scores[f"test/{key}"] for seed, scores in found.items()}
                cells.append(records.over_seeds(list(values.values())))
                gains = [100 * (values[seed] - exchanges["none"][seed][f"test/{key}"]) for seed in values]
                gain = repeats_interval(gains)
                shown = f"{gain.mean:+.2f}" + (f" ± {gain.half_width:.2f}" if len(gains) > 1 else "")
                cells.append("–" if exchange == "none" else shown)
            made.append([f"`loss={loss} sse={exchange}`", *cells, str(len(found))])
    return made
