"""Training and evaluation: the only file where learner, objective, optimiser and metric meet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from episodic.data.augment import Augment, Normalize
from episodic.data.store import ImageStore
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.episodes.sampler import EpisodeSampler
from episodic.episodes.task import Episode, Task, gather_episode
from episodic.evaluate.accuracy import accuracy
from episodic.evaluate.intervals import Interval
from episodic.learners.learner import AbstractLearner
from episodic.run.device import Hardware
from episodic.train.interrupt import StopRequest
from episodic.train.schedule import Schedule


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
