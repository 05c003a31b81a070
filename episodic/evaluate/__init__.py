"""Measures how good a learner is: its accuracy with intervals, its retrieval, its clusters, its calibration.

`python -m episodic.evaluate` scores a run; `episodic.evaluate.scoring.evaluate` scores a learner from Python.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "evaluate":  # not at import: NumPy alone is enough for the intervals
        from episodic.evaluate.scoring import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
