"""Few-shot and semi-supervised episodic learning: a learner is a function from a task to a prediction.

This page lists what most programs need. Everything else is imported from the folder where it lives, for example
`episodic.learners.prototypical.Prototypical`; `episodic.train` and `episodic.evaluate` are packages with a function of that name.

- `EpisodeSampler`, `IncrementalEpisodes`: which items an episode is made of, as `EpisodeIndices`. `EpisodeCollate`: items to an
  `Episode`, for a `DataLoader`.
- `Task`: all that a learner may see. `Episode`: a task and its answers. `Prediction`: what a learner gives back.
- `FewShotClassifier`: names your own pictures or features, with the interface of scikit-learn.
- `load`: the trained learner of a run.

>>> import episodic
>>> sampler = episodic.EpisodeSampler([0, 0, 0, 1, 1, 1], n_way=2, n_shot=1, n_query=2, episodes=100, seed=0)
>>> sampler[0].query_y.tolist()
[[0, 0, 1, 1]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from episodic.episodes.collate import EpisodeCollate
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler
from episodic.episodes.task import Episode, Task
from episodic.learners.prediction import Prediction

if TYPE_CHECKING:
    from episodic.assemble.classifier import FewShotClassifier
    from episodic.assemble.load import load

__version__ = "0.1.0"

__all__ = [
    "Episode",
    "EpisodeCollate",
    "EpisodeIndices",
    "EpisodeSampler",
    "FewShotClassifier",
    "IncrementalEpisodes",
    "Prediction",
    "Task",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    # Not at import: scikit-learn and Hydra take seconds, and the sampler alone needs neither.
    if name == "FewShotClassifier":
        from episodic.assemble.classifier import FewShotClassifier

        return FewShotClassifier
    if name == "load":
        from episodic.assemble.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
