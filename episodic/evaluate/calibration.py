"""Compares how sure a learner's answers are with how often they are right."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int64

BINS = 15  # of confidence, of equal width


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """How sure answers are and how often they are right, in bins. Answers of similar confidence share a bin, and all bins are
    equally wide.

    - `counts`: the number of answers in each bin.
    - `confidence`, `accuracy`: the mean confidence of these answers, and the share that is right; 0 in empty bins.

    >>> Calibration(counts=np.array([0, 4]), confidence=np.array([0.0, 0.75]), accuracy=np.array([0.0, 0.5])).error
    0.25
    """

    counts: Int64[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """The expected calibration error, 0 at best.

        ECE = sum over bins of counts / (number of answers) * |accuracy - confidence|
        """
        return float((self.counts * np.abs(self.accuracy - self.confidence)).sum() / max(self.counts.sum(), 1))


def calibration(
    confidence: Float[np.ndarray, " queries"], right: Bool[np.ndarray, " queries"], bins: int = BINS
) -> Calibration:
    """Sorts answers into bins by their confidence, and finds how often those of each bin are right. Answers whose confidence is not
    finite are left out.

    Bin i, from 0, holds confidences above `i / bins` up to `(i + 1) / bins`; a confidence of 0 is in the first.

    Guo, Pleiss, Sun, Weinberger: *On Calibration of Modern Neural Networks*, ICML 2017, https://arxiv.org/abs/1706.04599.

    **Arguments:** `confidence`: the probability of each answer, in 0..1. `right`: whether the answer is right. `bins`: how many
    (default 15, as in the paper).

    >>> found = calibration(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]), bins=2)
    >>> found.counts.tolist(), round(found.error, 3)
    ([0, 3], 0.133)
    """
    known = np.isfinite(confidence)
    confidence, right = confidence[known].astype(np.float64), right[known]
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins are open below, as in the paper
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (confidence, right)]
    return Calibration(counts, *(total / counts.clip(min=1) for total in sums))
