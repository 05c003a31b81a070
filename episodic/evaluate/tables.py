"""The rows and records of results: text for people, numbers for files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from episodic.config.terminal import printable
from episodic.data.store import ImageStore
from episodic.evaluate.clustering import Clustering
from episodic.evaluate.intervals import Interval, mean_interval, paired_interval
from episodic.evaluate.retrieval import Retrieval
from episodic.evaluate.scoring import Evaluation
from episodic.evaluate.spread import Density


def protocol(shape: dict[str, Any], transductive: bool) -> str:
    """What an episode is, in words, as papers say it.

    >>> shape = {"n_way": 5, "n_shot": 1, "n_query": 15, "n_unlabeled": 0, "n_distractors": 0, "base_way": 0, "base_query": 0}
    >>> protocol(shape, transductive=False)
    '5-way 1-shot, 15 queries a class, inductive'
    """
    parts = [f"{_text(shape['n_way'])}-way {_text(shape['n_shot'])}-shot, {_text(shape['n_query'])} queries a class"]
    if shape["n_unlabeled"] not in (0, [0, 0]):
        parts.append(f"{_text(shape['n_unlabeled'])} unlabeled a class")
        parts.append(f"{_text(shape['n_distractors'])} distractor classes")
    if shape["base_way"]:
        parts.append(f"{shape['base_way'] * shape['base_query']} queries of {shape['base_way']} base classes")
    return ", ".join([*parts, "transductive" if transductive else "inductive"])


def record(evaluation: Evaluation, store: ImageStore, shape: dict[str, Any]) -> dict[str, Any]:
    """The numbers of an evaluation, as files hold them. Each key begins with the name of the split, e.g. `test/accuracy`."""
    interval, classes = evaluation.interval, evaluation.class_interval
    values = {
        "accuracy": interval.mean,
        "ci95": interval.half_width,
        "class_ci95": None if classes is None else [classes.mean - classes.below, classes.mean + classes.above],
        "episodes": len(evaluation.accuracies),
        "episodes_hash": evaluation.episodes_hash,
        "protocol": protocol(shape, evaluation.transductive),
        "dataset": store.dataset,
        "split_name": store.split_name,
        "classes": len(store.class_names),
        "class_hash": store.class_hash,
        "skipped_images": len(store.skipped),
        "seconds": round(evaluation.seconds, 2),
    }
    if store.n_base:
        values["base_classes"] = store.n_base
    for name, detail in evaluation.details.items():
        key, detail_interval = name.replace(" ", "_"), mean_interval(detail)
        values |= {key: detail_interval.mean, f"{key}_ci95": detail_interval.half_width}
    return {f"{store.split}/{key}": value for key, value in values.items()}


def score_row(evaluation: Evaluation, store: ImageStore) -> list[str]:
    """The row of an evaluation under `SCORE_HEADER`."""
    classes = f"{store.n_base} + {len(store.class_names) - store.n_base}" if store.n_base else len(store.class_names)
    return [
        f"{store.dataset} {store.split}",
        f"{classes} ({store.split_name}, {store.class_hash})",
        f"{len(evaluation.accuracies):,} ({evaluation.episodes_hash})",
        percent(evaluation.interval),
        class_range(evaluation.class_interval),
        f"{evaluation.seconds:.1f}",
    ]


def detail_rows(evaluation: Evaluation, store: ImageStore, rival: Evaluation | None = None) -> list[list[str]]:
    """The rows under `DETAIL_HEADER`, one for each further share of an evaluation. With `rival` they are the paired differences to
    it.
    """
    rows = []
    for name, values in evaluation.details.items():
        if rival is None:
            rows.append([f"{store.dataset} {store.split}", name, percent(mean_interval(values))])
        elif name in rival.details:
            rows.append(["  difference", name, percent(paired_interval(values, rival.details[name]))])
    return rows


def retrieval_record(found: Retrieval, store: ImageStore) -> dict[str, Any]:
    """The numbers of a retrieval, as files hold them: the mean of each metric, half its interval, and how many queries count."""
    values: dict[str, Any] = {}
    for name, interval in found.intervals.items():
        values |= {name: interval.mean, f"{name}_ci95": interval.half_width}
    values |= {"queries": len(found.values["map@r"]), "queries_skipped": found.skipped}
    return {f"{store.split}/{key}": value for key, value in values.items()}


def retrieval_row(found: Retrieval, store: ImageStore) -> list[str]:
    """The row of a retrieval under `RETRIEVAL_HEADER`."""
    shown = [percent(found.intervals[name]) for name in ("recall@1", "r_precision", "map@r")]
    more = " / ".join(f"{100 * found.recall_at[k]:.1f}" for k in (2, 4, 8))
    return [f"{store.dataset} {store.split}", f"{len(found.values['map@r']):,}", *shown, more]


def spread_record(clusters: Clustering, dense: Density, decay: float, store: ImageStore) -> dict[str, float]:
    """The numbers that say how embeddings form clusters and spread, as files hold them."""
    values = dataclasses.asdict(clusters)
    values |= {f"density_{name}": value for name, value in dataclasses.asdict(dense).items()}
    return {f"{store.split}/{key}": value for key, value in (values | {"spectral_decay": decay}).items()}


def spread_row(clusters: Clustering, dense: Density, decay: float, store: ImageStore) -> list[str]:
    """The row under `SPREAD_HEADER` that says how embeddings form clusters and spread."""
    shares = [f"{100 * share:.2f}" for share in (clusters.nmi, clusters.ami, clusters.f1)]
    return [
        f"{store.dataset} {store.split}",
        *shares,
        f"{dense.ratio:.3f} ({dense.intra:.3f} / {dense.inter:.3f})",
        f"{decay:.3f}",
    ]


SPREAD_HEADER = ["K-means", "NMI %", "AMI %", "F1 %", "density (intra / inter)", "spectral decay"]
RETRIEVAL_HEADER = ["retrieval", "queries", "Recall@1 %", "R-precision %", "MAP@R %", "Recall@2 / 4 / 8 %"]
DETAIL_HEADER = ["data", "of each episode", "%"]
SCORE_HEADER = ["data", "classes (split, hash)", "episodes (hash)", "accuracy %", "over classes %", "seconds"]


def percent(interval: Interval) -> str:
    """The mean of an interval and half its width, in percent.

    >>> percent(Interval(mean=0.636, below=0.0029, above=0.0029))
    '63.60 ± 0.29'
    """
    return f"{100 * interval.mean:.2f} ± {100 * interval.half_width:.2f}"


def class_range(interval: Interval | None) -> str:
    """The ends of an interval, in percent; a dash where there is none.

    >>> class_range(Interval(mean=0.63, below=0.04, above=0.03))
    '59.0 to 66.0'
    """
    if interval is None:
        return "-"
    return f"{100 * (interval.mean - interval.below):.1f} to {100 * (interval.mean + interval.above):.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, in columns that line up under a ruled header. Characters that could not be seen are escaped.

    >>> print(table(["name", "%"], [["a", "63.60"], ["bcdef", "7"]]))
    name   %
    -----  -----
    a      63.60
    bcdef  7
    """
    header, *rows = [[printable(cell) for cell in cells] for cells in (header, *rows)]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def _text(count: Any) -> str:
    return str(count) if isinstance(count, int) else "-".join(map(str, count))
