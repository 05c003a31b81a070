"""From a configuration to the objects of one run: where `cfg` ends."""

from __future__ import annotations

import dataclasses
import math

from omegaconf import DictConfig, OmegaConf

from episodic.assemble.learner import Parts, arguments_of, build_exchange
from episodic.assemble.task import STREAMS, build_sampler, is_incremental, load_split, training_masks
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.core.losses.loss import AbstractPairLoss
from episodic.data.augment import Augment
from episodic.data.dataset import AbstractDataset
from episodic.learners.learner import AbstractLearner
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.semi.wrapper import layers
from episodic.train.dml import ANY_IMAGE, TRAININGS, MetricTrainer
from episodic.train.loop import Trainer, Training
from episodic.train.objective import OWN, WithLosses
from episodic.train.pseudo_labels import PseudoLabelTraining


def build_training(cfg: DictConfig, parts: Parts) -> Training:
    """Everything that a training step needs, at step 0."""
    trust = {"allow_any_target": cfg.allow_any_target}
    if any(inner.views > 1 for inner in layers(parts.learner)[1:]):
        raise ConfigError(
            "mean_teacher trains what it wraps, so in training it comes last: semi=[...,mean_teacher]. In evaluation other "
            "wrappers can be put around it: semi=[saved,...]"
        )
    if any(isinstance(inner, PseudoLabels) for inner in layers(parts.learner)[1:]):
        raise ConfigError("pseudo_labels trains on its own, without another wrapper around it: semi=pseudo_labels")
    trainer: Trainer = make(cfg.trainer, **trust)
    augment: Augment = make(cfg.augment, **trust)
    task = cfg.task
    store = load_split(parts.dataset, task, "train")
    labels = store.labels.numpy()
    seen, labeled = training_masks(task, labels)
    if is_incremental(task):
        store = dataclasses.replace(store, n_base=len(store.class_names))
    mask = None if labeled.all() else labeled
    if isinstance(trainer, MetricTrainer):
        if trainer.sampler in ANY_IMAGE and mask is not None:
            raise ConfigError(
                f"trainer.sampler={trainer.sampler} takes any training image, so none may be held out or unlabeled"
            )
        sampler = trainer.batches(labels, seed=cfg.seed, epoch=STREAMS["train"], labeled=mask)
    else:
        sampler = build_sampler(
            task,
            store,
            shape=task.train,
            seed=cfg.seed,
            stream="train",
            episodes=trainer.steps * trainer.episodes_per_step,
            episodes_per_batch=trainer.episodes_per_step,
            labeled=mask,
        )
    learner, kind, more = with_losses(cfg, parts.learner, parts.dataset), Training, {}
    if isinstance(learner, PseudoLabels):
        kind, more = PseudoLabelTraining, {"labeled": labeled, "seen": seen}
    elif isinstance(trainer, MetricTrainer):
        if not getattr(learner, "losses", None):
            raise ConfigError(
                "trainer=dml trains by losses of embeddings: choose one, e.g. loss=multi_similarity, or loss=classifier for "
                "plain supervised pre-training"
            )
        kind = TRAININGS[trainer.sampler]
    return kind(
        **more,
        learner=learner,
        store=store,
        sampler=sampler,
        normalize=parts.normalize,
        augment=augment,
        optimizer=make(cfg.optimizer, learner.learned_parameters(), **trust),
        schedule=make(cfg.schedule, **trust),
        trainer=trainer,
        hardware=parts.hardware,
        seed=cfg.seed,
    )


def with_losses(cfg: DictConfig, learner: AbstractLearner, dataset: AbstractDataset) -> AbstractLearner:
    """The learner with the losses of `cfg.loss` around it, where there are others than its own, in their memory and with the
    exchange of labels that `cfg.memory` and `cfg.sse` ask for.

    **Raises:** `ConfigError` for a memory that no loss can use.
    """
    weights = {name: node.weight for name, node in cfg.loss.items()}
    nodes = {name: node for name, node in cfg.loss.items() if name != OWN}
    trust = {"allow_any_target": cfg.allow_any_target}
    if not nodes:
        return learner
    dim, losses = math.prod(learner.backbone.shape), {}
    for name, node in nodes.items():
        settings = OmegaConf.to_container(node, resolve=True)
        settings = OmegaConf.create({key: value for key, value in settings.items() if key not in ("weight", "rate")})
        given = {"dim": dim, "exchange": build_exchange(cfg, dataset)}
        losses[name] = make(settings, **{key: given[key] for key in arguments_of(node) & given.keys()}, **trust)
        if isinstance(losses[name], AbstractPairLoss):
            losses[name] = make(cfg.memory, losses[name], dim=dim, **trust)
    rates = {name: node.rate for name, node in nodes.items() if "rate" in node}
    return WithLosses(learner, losses, weights, rates)
