"""Few-shot and semi-supervised episodic learning: a learner is a function from a task to a prediction."""

from episodic.episodes.collate import EpisodeCollate as EpisodeCollate
from episodic.episodes.indices import EpisodeIndices as EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler as EpisodeSampler
from episodic.episodes.task import Episode as Episode
from episodic.episodes.task import Task as Task
from episodic.learners.prediction import Prediction as Prediction

__version__ = "0.1.0"


def __getattr__(name: str) -> type:
    if name == "FewShotClassifier":  # not at import: scikit-learn and Hydra take seconds
        from episodic.assemble.classifier import FewShotClassifier

        return FewShotClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
