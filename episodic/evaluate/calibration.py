"""How sure answers are beside how right they are."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int64

BINS = 15  # of confidence, of equal width


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Answers by confidence, in bins of equal width: how many, how sure and how right they are (0 in empty bins)."""

    counts: Int64[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy − confidence|, averaged over answers."""
        return float((self.counts * np.abs(self.accuracy - self.confidence)).sum() / max(self.counts.sum(), 1))


def calibration(
    confidence: Float[np.ndarray, " queries"], right: Bool[np.ndarray, " queries"], bins: int = BINS
) -> Calibration:
    """Answers by confidence; those whose probabilities are not finite are left out.

    Guo, Pleiss, Sun, Weinberger: *On Calibration of Modern Neural Networks*, ICML 2017, https://arxiv.org/abs/1706.04599.
    """
    known = np.isfinite(confidence)
    confidence, right = confidence[known].astype(np.float64), right[known]
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins are open below, as in the paper
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (confidence, right)]
    return Calibration(counts, *(total / counts.clip(min=1) for total in sums))
