"""Losses of embeddings beside, or in the place of, a learner's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from episodic.episodes.task import Episode, Task
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.learners.prediction import Prediction

OWN = "cross_entropy"  # the name that the learner's own loss has among the losses


class WithLosses(AbstractMetricLearner):
    """A learner whose embeddings are trained by losses of deep metric learning too; its answers are the learner's.

    In training the loss of episodes is

        own * the learner's loss  +  sum over losses of weight * loss(embeddings, labels)

    over the embeddings of all support and query items of a step as one batch, flattened, with the labels that they have in the
    data set: two episodes of a step that share a class have positive pairs between them. `trainer=dml` trains on batches by
    these losses alone (see `metric_training`). In evaluation the losses do nothing.

    **Arguments:** `learner`: one that compares embeddings and trains on whole tasks. `losses`: by name, of `core.losses` or any
    module that is called with `(embeddings, labels)`, as those of pytorch-metric-learning. `weights`: a factor for each, and for
    the learner's own under the name `cross_entropy`; without that the learner's own loss is left out. `rates`: factors on the
    learning rate of the weights that a loss owns (proxies want up to 100), 1 where none is given.

    **Raises:** `ValueError` for a learner that has no embeddings, or trains in a way of its own.
    """

    def __init__(
        self,
        learner: AbstractLearner,
        losses: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        rates: Mapping[str, float] | None = None,
    ):
        super().__init__()
        if not isinstance(learner, AbstractMetricLearner) or learner.views > 1:
            raise ValueError(
                f"loss=[{','.join(losses)}] needs a learner that compares embeddings and trains by one loss, e.g. "
                f"learner=prototypical; {type(learner).__name__} does not"
            )
        self.learner = learner
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)
        self.rates = dict(rates or {})
        for name in ("transductive", "incremental", "uses_unlabeled", "needs_start"):
            setattr(self, name, getattr(learner, name))

    @property
    def backbone(self) -> nn.Module:
        return self.learner.backbone

    def embed(self, task: Task) -> Task:
        return self.learner.embed(task)

    def classify(self, features: Task) -> Prediction:
        prediction = self.learner.classify(features)
        if not self.training:
            return prediction
        items = torch.cat([features.support.flatten(2), features.query.flatten(2)], dim=1).flatten(0, 1)

        def own(episode: Episode) -> Tensor:
            if prediction.loss is not None:
                return self.weights[OWN] * prediction.loss(episode)
            return self.weights[OWN] * cross_entropy(
                prediction.logits.float().mT, episode.query_y, reduction="none"
            ).mean(-1)

        def of_embeddings(episode: Episode) -> Tensor:
            base = torch.arange(features.n_base, device=items.device).expand(len(episode.query_y), -1)
            known = torch.cat([episode.class_ids, base], dim=1)
            labels = known.gather(1, torch.cat([features.support_y, episode.query_y], dim=1)).flatten()
            return self.of_batch(items, labels).expand(len(episode.query_y))

        without = lambda episode: items.new_zeros(len(episode.query_y))  # noqa: E731
        return dataclasses.replace(
            prediction,
            loss=own if OWN in self.weights else without,
            terms={**prediction.terms, "embeddings": of_embeddings},
        )

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The weighted sum of the losses of a batch `[N, D]`."""
        return sum(self.weights[name] * loss(embeddings, labels) for name, loss in self.losses.items())

    def learned_parameters(self) -> list[dict[str, Any]]:
        groups = [{"params": self.learner.learned_parameters(), "rate": 1.0}]
        for name, loss in self.losses.items():
            if owned := list(loss.parameters()):
                groups.append({"params": owned, "rate": self.rates.get(name, 1.0)})
        return groups

    def after_step(self) -> None:
        self.learner.after_step()
