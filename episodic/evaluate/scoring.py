"""Accuracy of a learner on a list of episodes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.source import Episodes, episodes_hash, in_chunks
from episodic.episodes.task import Episode, gather_episode
from episodic.evaluate.accuracy import accuracy, incremental_accuracies, unlabeled_accuracies
from episodic.evaluate.intervals import Interval, class_bootstrap, mean_interval
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.learners.prediction import Prediction
from episodic.run.device import Hardware
from episodic.run.embed import CHUNK_BYTES, EMBED_BATCH, embed


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one learner on a list of episodes.

    `accuracies [E]`, `class_ids [E, n_way]`, `episodes_hash` (names the list), `transductive` (as the learner declares it),
    `seconds`; `details`: what else was measured of each episode, by name (see `metrics.incremental_accuracies`).
    """

    accuracies: np.ndarray
    class_ids: np.ndarray
    episodes_hash: str
    transductive: bool
    seconds: float
    details: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def interval(self) -> Interval:
        """Mean ± 1.96 · std / √E over episodes."""
        return mean_interval(self.accuracies)

    @property
    def class_interval(self) -> Interval | None:
        """Interval that also counts the draw of the classes; None where it cannot be told, as for ranges of ways."""
        return class_bootstrap(self.accuracies, self.class_ids) if self.class_ids.ndim == 2 else None


@torch.inference_mode()
def evaluate(
    learner: AbstractLearner,
    store: ImageStore,
    episodes: Episodes,
    normalize: Normalize,
    hardware: Hardware | None = None,
    *,
    cached: bool | None = None,
    progress: bool = False,
    on_block: Callable[[EpisodeIndices, Prediction], None] = lambda indices, prediction: None,
) -> Evaluation:
    """Accuracy of `learner` on each of `episodes` (a sampler over `store.labels`, or a list read from a manifest).

    A metric learner is scored on features computed once (`cached`, the default for it): ten thousand episodes are then
    gathers. Other learners see the images of every episode; both ways give the same numbers up to rounding. The learner is
    put in eval mode, so batch norm uses its running statistics and, unless it is transductive, nothing leaks between queries.
    `on_block` is called with the episodes that were answered together, block by block, and the answers.

    **Raises:** `ValueError` for `cached=True` with a learner that needs images.
    """
    hardware = hardware or Hardware.choose()
    started = time.perf_counter()
    predict, chunk = predictor(learner, store, normalize, hardware, cached=cached, progress=progress)
    # Filled in place: small results kept between large tensors would break up the heap, which then grows by the chunk.
    accuracies, class_ids, details, done = np.empty(episodes.episodes), [], {}, 0
    with tqdm(total=episodes.episodes, desc="episodes", disable=None if progress else True, leave=False) as bar:
        for indices in in_chunks(episodes, chunk(episodes[0:1].flat().size)):
            episode, prediction = predict(indices)
            rows = slice(done, done + len(indices))
            accuracies[rows] = accuracy(prediction.logits, episode.query_y).cpu()
            class_ids.append(indices.class_ids)
            measured = {}
            if indices.n_base:
                measured |= incremental_accuracies(prediction.logits, episode.query_y, indices.n_way)
            if prediction.unlabeled is not None:
                measured |= unlabeled_accuracies(prediction.unlabeled, episode.unlabeled_y)
            for name, values in measured.items():
                details.setdefault(name, np.empty(episodes.episodes))[rows] = values.cpu()
            on_block(indices, prediction)
            done += len(indices)
            bar.update(len(indices))
    one_way = len({ids.shape[1] for ids in class_ids}) == 1
    return Evaluation(
        accuracies=accuracies,
        class_ids=np.concatenate(class_ids) if one_way else np.empty(0),
        episodes_hash=episodes_hash(episodes),
        transductive=learner.capabilities.transductive,
        seconds=time.perf_counter() - started,
        details=details,
    )


def predictor(
    learner: AbstractLearner,
    store: ImageStore,
    normalize: Normalize,
    hardware: Hardware,
    *,
    cached: bool | None = None,
    progress: bool = False,
) -> tuple[Callable, Callable[[int], int]]:
    """How to answer episodes of `store` with `learner`, on features computed here once or on images.

    Returns `(indices -> (episode, prediction), items of an episode -> how many episodes to ask for at once)`, and leaves the
    learner in eval mode.
    """
    learner.eval()
    metric = isinstance(learner, AbstractMetricLearner)
    if cached and not metric:
        raise ValueError(f"{type(learner).__name__} needs images; only a metric learner works on cached features")
    if metric and cached is not False:
        features = embed(learner.backbone, store, normalize, hardware, progress=progress)
        item_bytes = features[0].numel() * 4

        def on_features(indices) -> tuple[Episode, Prediction]:
            episode = gather_episode(indices, lambda i: _take(features, i), hardware.device)
            return episode, learner.classify(episode.task)

        return on_features, lambda items: _power_of_two(CHUNK_BYTES // (items * item_bytes))

    def on_images(indices) -> tuple[Episode, Prediction]:
        episode = gather_episode(indices, store.gather, hardware.device)
        with hardware.autocast():
            return episode, learner(episode.task.map(normalize))

    return on_images, lambda items: _power_of_two(2 * EMBED_BATCH // items)


def _take(features: Tensor, index: Tensor) -> Tensor:
    flat = features.index_select(0, index.reshape(-1).to(features.device))
    return flat.unflatten(0, index.shape)


def _power_of_two(n: int) -> int:
    """The largest power of two up to `n`, at least 1 and at most 256 (a block of the sampler)."""
    return 1 << min(8, max(1, n).bit_length() - 1)
