"""Train a learner: one training procedure a file. `python -m episodic.train` is the command, `train` the same from Python."""

from __future__ import annotations

from typing import Any


def train(*options: str) -> dict[str, Any]:
    """Train as on the command line, and return what `metrics.json` says. The options are those of `python -m episodic.train`.

        from episodic.train import train
        metrics = train("task=glyphs_5w1s", "learner=matching", "run=runs/matching")

    **Raises:** `ConfigError` for options that there are not or that could have no effect; whatever training raises.
    """
    from episodic.config.overrides import composed
    from episodic.train.session import train as train_session

    cfg, choices = composed("train", list(options))
    return train_session(cfg, choices, list(options))
