"""Scores a learner: its accuracy on each episode of a list."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from episodic.core.functional.finite import answered, why_not_finite
from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.source import Episodes, episodes_hash
from episodic.episodes.task import Episode, gather_episode
from episodic.evaluate.accuracy import accuracy, incremental_accuracies, unlabeled_accuracies
from episodic.evaluate.intervals import Interval, class_interval, mean_interval
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.learners.prediction import Prediction
from episodic.run.device import Hardware
from episodic.run.distributed import from_all, is_first, process_number, shares
from episodic.run.embed import CHUNK_BYTES, EMBED_BATCH, embed


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of one learner on a list of episodes. Its properties are the mean accuracy with two kinds of interval.

    - `accuracies [E]`: the accuracy of each episode. `class_ids [E, n_way]`: the data set's classes in it; empty where episodes
      have different numbers of classes.
    - `episodes_hash`: the name of the list, equal exactly for equal lists.
    - `transductive`: whether the learner declares itself so. `seconds`: how long scoring took.
    - `details`: further shares of each episode, by name (see `evaluate.accuracy`).
    """

    accuracies: np.ndarray
    class_ids: np.ndarray
    episodes_hash: str
    transductive: bool
    seconds: float
    details: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def interval(self) -> Interval:
        """The mean accuracy with its interval over episodes (see `mean_interval`)."""
        return mean_interval(self.accuracies)

    @property
    def class_interval(self) -> Interval | None:
        """The mean accuracy with an interval that also covers the choice of the classes (see `class_interval`). None where it
        cannot be told, as for episodes with different numbers of classes.
        """
        return class_interval(self.accuracies, self.class_ids) if self.class_ids.ndim == 2 else None


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
    """Scores a learner on each of some episodes. It counts the queries that are answered right, and nothing is trained.

    A metric learner is scored on features that are computed once, which makes ten thousand episodes cheap. Other learners see the
    images of every episode. Both ways give the same numbers up to rounding. The learner is put into eval mode, so that batch norm
    uses its running statistics and nothing leaks between queries, unless the learner is transductive.

    **Arguments:**

    - `episodes`: a sampler over `store.labels`, or a list that was read from a manifest.
    - `normalize`: the normalization that the learner was trained with.
    - `hardware` (default None): device and precision; None for `Hardware.choose()`.
    - `cached` (default None): whether to compute features once; None for metric learners only.
    - `progress` (default false): whether to show a bar.
    - `on_block`: is called with each block of episodes that were answered together, and their prediction.

    Several processes share the episodes, and each gets all scores; `on_block` is called with those of its process.

    **Raises:** `ValueError` for `cached=True` with a learner that needs images. `ArithmeticError` for an answer that is not finite.

    >>> from episodic import EpisodeSampler
    >>> from episodic.learners.prototypical import Prototypical
    >>> images = torch.cat([torch.zeros(5, 1, 4, 4), torch.full((5, 1, 4, 4), 255)]).to(torch.uint8)
    >>> labels, names = torch.arange(10) // 5, tuple("abcdefghij")
    >>> store = ImageStore(images, labels, ("dark", "bright"), names, None, (), dataset="tones", split="test", split_name="ours")
    >>> episodes = EpisodeSampler(labels, n_way=2, n_shot=1, n_query=4, episodes=100)
    >>> learner = Prototypical(torch.nn.Flatten())  # compares pixels
    >>> evaluate(learner, store, episodes, Normalize([0.5], [0.5]), Hardware.choose("cpu", "fp32")).interval
    Interval(mean=1.0, below=0.0, above=0.0)
    """
    hardware = hardware or Hardware.choose()
    started = time.perf_counter()
    predict, chunk = episode_predictor(learner, store, normalize, hardware, cached=cached, progress=progress)
    size = chunk(episodes[0:1].flat().size)
    first, last = shares(episodes.episodes, size)[process_number() :][:2]
    # Filled in place: small results kept between large tensors would break up the heap, which then grows by the chunk.
    found, class_ids = {"accuracies": np.empty(last - first)}, []
    shown = progress and is_first()
    with tqdm(total=last - first, desc="episodes", disable=None if shown else True, leave=False) as bar:
        for start in range(first, last, size):
            indices = episodes[start : min(start + size, last)]
            episode, prediction = predict(indices)
            rows = slice(start - first, start - first + len(indices))
            right = accuracy(prediction.logits, episode.query_y)
            accuracies = right.masked_fill(~answered(prediction.logits), torch.nan).cpu()  # one transfer for both
            if accuracies.isnan().any():
                wrong = start + int(accuracies.isnan().int().argmax())
                raise ArithmeticError(
                    f"the learner's answers are not finite in episode {wrong}: {why_not_finite(learner)}"
                )
            class_ids.append(indices.class_ids)
            measured = {"accuracies": accuracies}
            if indices.n_base:
                measured |= incremental_accuracies(prediction.logits, episode.query_y, indices.n_way)
            if prediction.unlabeled is not None:
                measured |= unlabeled_accuracies(prediction.unlabeled, episode.unlabeled_y)
            for name, values in measured.items():
                found.setdefault(name, np.empty(last - first))[rows] = values.cpu()
            on_block(indices, prediction)
            bar.update(len(indices))
    everyone = [(part, ids) for part, ids in from_all((found, class_ids)) if ids]  # in the order of the episodes
    values = {name: np.concatenate([part[name] for part, _ in everyone]) for name in everyone[0][0]}
    class_ids = [ids for _, of_process in everyone for ids in of_process]
    one_way = len({ids.shape[1] for ids in class_ids}) == 1
    return Evaluation(
        accuracies=values.pop("accuracies"),
        class_ids=np.concatenate(class_ids) if one_way else np.empty(0),
        episodes_hash=episodes_hash(episodes),
        transductive=learner.capabilities.transductive,
        seconds=time.perf_counter() - started,
        details=values,
    )


def episode_predictor(
    learner: AbstractLearner,
    store: ImageStore,
    normalize: Normalize,
    hardware: Hardware,
    *,
    cached: bool | None = None,
    progress: bool = False,
) -> tuple[Callable, Callable[[int], int]]:
    """A function that answers episodes of `store` with a learner. It works on features, which are computed here once, or on images.

    **Returns** `(predict, chunk)`: `predict(indices)` gives `(episode, prediction)`, and `chunk(items)` says how many episodes of
    so many items to ask for at once. The learner is left in eval mode.

    **Arguments:** as in `evaluate`.

    **Raises:** `ValueError` for `cached=True` with a learner that needs images.

    >>> from episodic import EpisodeSampler
    >>> from episodic.learners.prototypical import Prototypical
    >>> images, labels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1), torch.arange(20) // 10
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple(map(str, range(20))), None, (), "pets", "val", "ours")
    >>> learner, exact = Prototypical(torch.nn.Flatten()), Hardware.choose("cpu", "fp32")
    >>> predict, chunk = episode_predictor(learner, store, Normalize([0.0], [1.0]), exact)
    >>> episode, prediction = predict(EpisodeSampler(labels, 2, 1, 3)[0:4])
    >>> prediction.logits.shape, chunk(8)
    (torch.Size([4, 6, 2]), 256)
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
