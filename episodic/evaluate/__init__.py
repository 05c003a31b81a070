"""Score a learner: accuracy with intervals, retrieval, clustering, calibration. `python -m episodic.evaluate` scores a run."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "evaluate":  # not at import: NumPy alone is enough for the intervals
        from episodic.evaluate.scoring import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
