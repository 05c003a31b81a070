"""Training and evaluation: the only file where learner, objective, optimiser and metric meet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from episodic.data.augment import Augment, Normalize
from episodic.data.store import ImageStore
from episodic.episodes.task import Episode, Task, gather_episode
from episodic.run.device import Hardware
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.evaluate.manifest import Episodes, episodes_hash, in_chunks
from episodic.evaluate.intervals import (
    Interval,
    accuracy,
    class_bootstrap,
    incremental_accuracies,
    mean_interval,
    unlabeled_accuracies,
)
from episodic.learners.prediction import Prediction
from episodic.episodes.sampler import EpisodeIndices, EpisodeSampler
from episodic.train.schedule import Schedule
from episodic.train.interrupt import StopRequest

EMBED_BATCH = 256  # images embedded at once in evaluation
CHUNK_BYTES = 2**24  # of gathered features; larger chunks leave the processor's cache


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
def embed(
    backbone: nn.Module, store: ImageStore, normalize: Normalize, hardware: Hardware, *, progress: bool = False
) -> Tensor:
    """Features of every image of `store`: float32 `[N, *shape]` on the hardware's device. Leaves `backbone` in eval mode."""
    backbone.eval()
    features = None
    starts = range(0, len(store), EMBED_BATCH)
    for start in tqdm(starts, desc=f"embedding {store.split}", disable=None if progress else True, leave=False):
        images = store.images[start : start + EMBED_BATCH].to(hardware.device, non_blocking=True)
        with hardware.autocast():
            batch = backbone(normalize(images))
        if features is None:
            features = torch.empty(len(store), *batch.shape[1:], device=hardware.device)
        features[start : start + len(batch)] = batch
    return features


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
        transductive=learner.transductive,
        seconds=time.perf_counter() - started,
        details=details,
    )


def embeddings_of(
    learner: AbstractLearner, store: ImageStore, normalize: Normalize, hardware: Hardware, *, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """What retrieval and clustering compare: flat embeddings `[N, D]` of all images of `store`, and their labels `[N]`.

    **Raises:** `ValueError` for a learner without embeddings.
    """
    if not isinstance(learner, AbstractMetricLearner):
        raise ValueError(
            f"retrieval and clustering compare embeddings, and {type(learner).__name__} has none of its own"
        )
    features = embed(learner.backbone, store, normalize, hardware, progress=progress)
    return features.flatten(1), store.labels.to(features.device)


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


def audit(predict: Callable, episodes: Episodes, count: int = 20, seed: int = 0) -> dict[str, float]:
    """How much log-probabilities `l` of queries change where nothing that an inductive learner may see has changed.

    Re-runs `count` episodes with the queries permuted, with one query at a time, with the classes relabelled (and the
    answers mapped back), and with the unlabeled items permuted; gives the largest `|change| / (1 + |l|)` of each. It is
    rounding for an inductive learner that treats classes alike; a change under the first two means that queries see each
    other: transductive, or batch statistics that leak. `predict` (see `predictor`) should work in float32.
    """
    random = np.random.Generator(np.random.Philox(seed))
    checks = ("queries permuted", "one query at a time", "classes relabelled", "unlabeled permuted")
    worst = dict.fromkeys(checks, 0.0)
    for i in range(min(count, episodes.episodes)):
        indices = episodes[i : i + 1]

        def answer(**changes: np.ndarray) -> Tensor:
            return predict(dataclasses.replace(indices, **changes))[1].logits.float().log_softmax(-1)  # noqa: B023

        before = answer()
        if not before.isfinite().all():
            raise ValueError(
                f"the learner's log-probabilities of episode {i} are not finite, so nothing can be said of them"
            )
        order = random.permutation(indices.query.shape[1])
        permuted = answer(query=indices.query[:, order], query_y=indices.query_y[:, order])
        alone = [answer(query=indices.query[:, [q]], query_y=indices.query_y[:, [q]]) for q in range(len(order))]
        name = random.permutation(indices.n_way)
        name = np.concatenate([name, np.arange(indices.n_way, indices.n_way + indices.n_base)])
        relabelled = answer(support_y=name[indices.support_y], query_y=name[indices.query_y])
        shuffled = answer(unlabeled=indices.unlabeled[:, random.permutation(indices.unlabeled.shape[1])])
        again = (permuted - before[:, order], torch.cat(alone, dim=1) - before, relabelled[..., name] - before)
        again, sizes = (*again, shuffled - before), (before[:, order], before, before, before)
        for key, change, size in zip(worst, again, sizes, strict=True):
            worst[key] = max(worst[key], float((change.abs() / (1 + size.abs())).nan_to_num(nan=torch.inf).max()))
    return worst


@dataclasses.dataclass(frozen=True)
class Trainer:
    """How long and how to train.

    - `steps`: optimiser steps. `episodes_per_step`: episodes in each, stacked in one forward pass.
    - `clip_norm`: the gradient's 2-norm is scaled down to this; 0 for no clipping.
    - `validate_every`: steps between validations on `validation_episodes` fixed episodes of the validation classes; the
      best is kept.
    - `save_every`: steps between checkpoints. `log_every`: steps between points of the training curve, and between checks
      that the loss is finite.
    """

    steps: int = 2000
    episodes_per_step: int = 1
    clip_norm: float = 0.0
    validate_every: int = 500
    validation_episodes: int = 600
    save_every: int = 500
    log_every: int = 20

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if isinstance(field.default, str):
                continue
            value, least = getattr(self, field.name), int(field.name != "clip_norm")
            if not isinstance(value, int | float if field.name == "clip_norm" else int) or value < least:
                raise ValueError(f"trainer.{field.name} must be a number, at least {least}, got {value!r}")


def objective(learner: AbstractLearner, episode: Episode, hardware: Hardware) -> tuple[Tensor, Tensor]:
    """`(loss, accuracy [E])`: the prediction's loss, by default the queries' cross-entropy, plus the mean of its terms."""
    with hardware.autocast():
        prediction = learner(episode.task)
    if prediction.loss is None:
        loss = cross_entropy(prediction.logits.float().flatten(0, 1), episode.query_y.flatten())
    else:
        loss = prediction.loss(episode).mean()
    for term in prediction.terms.values():
        loss = loss + term(episode).mean()
    return loss, accuracy(prediction.logits.detach(), episode.query_y)


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass(eq=False)
class Training:
    """A learner in training, with everything that one step needs. Step `s` is a pure function of `(weights, seed, s)`."""

    learner: AbstractLearner
    store: ImageStore
    sampler: EpisodeSampler | IncrementalEpisodes
    normalize: Normalize
    augment: Augment
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    trainer: Trainer
    hardware: Hardware
    seed: int = 0
    step: int = 0
    base_rates: list[float] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        groups = self.optimizer.param_groups
        self.base_rates = [group.setdefault("initial_lr", group["lr"] * group.get("rate", 1.0)) for group in groups]

    @property
    def measured(self) -> dict[str, float]:
        """What there is to report beside the loss, by name."""
        return {}

    def advance(self) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns `(loss, accuracy)`, detached, still on the device."""
        # Keyed by the step, so that dropout and augmentation need no state to resume.
        torch.manual_seed((self.seed * 0x9E3779B97F4A7C15 + self.step) % 2**63)
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + self.step) % 2**63)
        factor = self.schedule(self.step, self.trainer.steps)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self.learner.train()
        loss, correct = self.outcome(generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.trainer.clip_norm:
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.trainer.clip_norm)
        self.optimizer.step()
        self.learner.after_step()
        self.step += 1
        return loss.detach(), correct.mean()

    def outcome(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`(loss, accuracies)` of what this step trains on; augmentation draws from `generator`."""
        episode = gather_episode(self.sampler.batch(self.step), self.store.gather, self.hardware.device)
        seen = dataclasses.replace(episode.task, class_ids=episode.class_ids)
        views = [
            seen.map(lambda images: self.normalize(images, self.augment, generator)) for _ in range(self.learner.views)
        ]
        task: Task = dataclasses.replace(views[0], again=views[1] if len(views) > 1 else None)
        return objective(self.learner, dataclasses.replace(episode, task=task), self.hardware)


def fit(
    training: Training,
    *,
    validate: Callable[[], Interval] | None = None,
    on_log: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    on_validation: Callable[[int, Interval], None] = lambda step, interval: None,
    save: Callable[[], Any] = lambda: None,
    stop: StopRequest | None = None,
    progress: bool = False,
) -> bool:
    """Train until `trainer.steps`; False where `stop` asked to end early. Either way the last step is saved.

    **Arguments** (all optional): `validate` scores the learner on the validation classes every `validate_every` steps and
    at the end; `on_log` and `on_validation` receive the curves; `save` writes a checkpoint; `stop` says that the user wants
    to end.

    **Raises:** `NonFiniteLossError` with the step where the loss was first not finite; nothing is saved after it.
    """
    trainer, window, saved = training.trainer, [], training.step
    began, first = time.perf_counter(), training.step

    def settle() -> None:
        if not window:
            return
        losses, corrects = (torch.stack(values).float().cpu() for values in zip(*window, strict=True))
        start = training.step - len(window)
        window.clear()
        if not losses.isfinite().all():
            bad = start + int((~losses.isfinite()).nonzero()[0])
            raise NonFiniteLossError(
                f"the loss is {losses[bad - start].item()} at step {bad} (seed {training.seed}, "
                f"episodes {bad * trainer.episodes_per_step} to {(bad + 1) * trainer.episodes_per_step - 1})"
            )
        rate = (training.step - first) * trainer.episodes_per_step / (time.perf_counter() - began)
        values = {"loss": losses.mean().item(), "accuracy": corrects.mean().item(), "episodes_per_second": rate}
        bar.set_postfix(loss=f"{values['loss']:.3f}", acc=f"{values['accuracy']:.1%}", eps=f"{rate:.1f}/s")
        rates = {"learning_rate": training.optimizer.param_groups[0]["lr"]}
        on_log(training.step, {**values, **rates, **training.measured})

    quiet = None if progress else True
    with tqdm(total=trainer.steps, initial=first, desc="training", unit="step", disable=quiet) as bar:
        while training.step < trainer.steps and not (stop and stop.requested):
            window.append(training.advance())
            bar.update()
            last = training.step == trainer.steps
            validating = validate is not None and (training.step % trainer.validate_every == 0 or last)
            if len(window) == trainer.log_every or training.step % trainer.save_every == 0 or validating or last:
                settle()
            if validating:
                on_validation(training.step, validate())
            if training.step % trainer.save_every == 0 or last:
                save()
                saved = training.step
        settle()
        if saved != training.step:
            save()
    return training.step == trainer.steps


def _take(features: Tensor, index: Tensor) -> Tensor:
    flat = features.index_select(0, index.reshape(-1).to(features.device))
    return flat.unflatten(0, index.shape)


def _power_of_two(n: int) -> int:
    """The largest power of two up to `n`, at least 1 and at most 256 (a block of the sampler)."""
    return 1 << min(8, max(1, n).bit_length() - 1)
