"""Trains a learner. Each training procedure is a file here; `python -m episodic.train` is the command, and `train` the same from
Python.
"""

from __future__ import annotations

from typing import Any


def train(*options: str) -> dict[str, Any]:
    """Train as on the command line, and return the numbers of `metrics.json`. The options are those of `python -m episodic.train`.

        from episodic.train import train
        metrics = train("task=glyphs_5w1s", "learner=matching", "run=runs/matching")

    **Raises:** `ConfigError` for options that do not exist, have another type, or could have no effect; what training raises.
    """
    from episodic.config.overrides import composed
    from episodic.config.paths import unquoted
    from episodic.config.types import check_types
    from episodic.train.resume import with_saved_options
    from episodic.train.session import train as train_session

    complete = with_saved_options([unquoted(option) for option in options])
    cfg, choices = composed("train", complete)
    check_types(cfg, allow_any_target=cfg.allow_any_target is True)
    return train_session(cfg, choices, complete)
