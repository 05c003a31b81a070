"""The results of an evaluation, split by split: as tables for people, and as a record for a file."""

from __future__ import annotations

from typing import Any

from episodic.data.store import ImageStore
from episodic.evaluate.clustering import Clustering
from episodic.evaluate.intervals import paired_interval
from episodic.evaluate.retrieval import Retrieval
from episodic.evaluate.scoring import Evaluation
from episodic.evaluate.spread import Density
from episodic.evaluate.tables import (
    DETAIL_HEADER,
    RETRIEVAL_HEADER,
    SCORE_HEADER,
    SPREAD_HEADER,
    detail_rows,
    percent,
    record,
    retrieval_record,
    retrieval_row,
    score_row,
    spread_record,
    spread_row,
    table,
)


class Results:
    """The scores of a learner on one or more splits. `str(results)` is the text to print, and `results.record` the numbers to
    write.

    - `record`: each key begins with the name of the split, e.g. `test/accuracy`.
    - `protocol`: what an episode is, in words, from the split that was added last.

    **Arguments:** `shape`: the numbers of an episode, by name (see `assemble.task.episode_shape`).
    """

    def __init__(self, shape: dict[str, Any]):
        self.shape = shape
        self.record: dict[str, Any] = {}
        self.protocol = ""
        self._scores: list[list[str]] = []
        self._details: list[list[str]] = []
        self._retrieval: list[list[str]] = []
        self._spread: list[list[str]] = []

    def add(self, ours: Evaluation, store: ImageStore, theirs: Evaluation | None = None) -> None:
        """Add the accuracies of a split. `theirs` are another learner's on the same episodes; with them the paired difference is
        added too.
        """
        self.record |= record(ours, store, self.shape)
        self.protocol = self.record[f"{store.split}/protocol"]
        self._scores.append(score_row(ours, store))
        self._details += detail_rows(ours, store)
        if theirs is None:
            return
        difference = paired_interval(ours.accuracies, theirs.accuracies)
        self._scores.append(["  against", *score_row(theirs, store)[1:]])
        self._details += detail_rows(ours, store, theirs)
        self._scores.append(["  difference", "", "same episodes", percent(difference), "", ""])
        self.record[f"{store.split}/difference"] = difference.mean
        self.record[f"{store.split}/difference_ci95"] = difference.half_width

    def add_retrieval(self, found: Retrieval, store: ImageStore) -> None:
        """Add how well the images of a split find others of their class."""
        self.record |= retrieval_record(found, store)
        self._retrieval.append(retrieval_row(found, store))

    def add_spread(self, clusters: Clustering, dense: Density, decay: float, store: ImageStore) -> None:
        """Add how the embeddings of a split form clusters and how they spread. `decay` is what `spectral_decay` gave."""
        self.record |= spread_record(clusters, dense, decay, store)
        self._spread.append(spread_row(clusters, dense, decay, store))

    def __str__(self) -> str:
        headers = (SCORE_HEADER, DETAIL_HEADER, RETRIEVAL_HEADER, SPREAD_HEADER)
        rows = (self._scores, self._details, self._retrieval, self._spread)
        return "\n\n".join(table(header, some) for header, some in zip(headers, rows, strict=True) if some)
