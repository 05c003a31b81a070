"""The number that training makes smaller: the learner's own loss of an episode, and losses of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from episodic.core.losses.loss import AbstractLoss
from episodic.episodes.share import present_share
from episodic.episodes.task import Episode
from episodic.evaluate.accuracy import accuracy
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.run.device import Hardware
from episodic.run.distributed import gathered, mean_of_batch


class Objective(nn.Module):
    """The weighted sum of a learner's own loss and of losses of its embeddings. It is used in training only.

        own_weight * the learner's loss  +  sum over losses of weight * loss(embeddings, labels)  +  auxiliary losses

    On episodes the embeddings are those of all support and query items of a step, as one batch and flattened, whatever process has
    them. Their labels are those of the data set, so two episodes of a step that share a class have positive pairs between them.
    Procedures that take batches use the losses of embeddings alone.

    **Arguments:**

    - `losses` (default none): by name, of `core.losses`, or any module that is called with `(embeddings, labels)`, such as those of
      pytorch-metric-learning.
    - `weights` (default 1 each): a factor for each loss, by name.
    - `own_weight` (default 1): the factor of the learner's own loss; None leaves it out.
    - `lr_multipliers` (default 1 each): factors on the learning rate of the weights that a loss has (proxies want up to 100), by
      name.

    >>> objective = Objective()  # the learner's own loss, as it is
    >>> objective.own_weight, list(objective.losses)
    (1.0, [])
    >>> from episodic.core.losses.contrastive import Contrastive
    >>> twice = Objective({"contrastive": Contrastive()}, {"contrastive": 2.0}, own_weight=None)
    >>> embeddings, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    >>> bool(twice.of_batch(embeddings, labels) == 2 * Contrastive()(embeddings, labels))
    True
    """

    def __init__(
        self,
        losses: Mapping[str, nn.Module] | None = None,
        weights: Mapping[str, float] | None = None,
        own_weight: float | None = 1.0,
        lr_multipliers: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.losses = nn.ModuleDict(losses or {})
        self.weights = {name: 1.0 for name in self.losses} | dict(weights or {})
        self.own_weight = own_weight
        self.lr_multipliers = dict(lr_multipliers or {})

    def check(self, learner: AbstractLearner, trainer: str, steps: int) -> None:
        """Refuse losses that could have no effect.

        **Arguments:** `trainer`: the procedure, as an option of `conf/trainer`. `steps`: how many there will be.

        **Raises:** `ValueError` for losses of embeddings with a learner that has no embeddings, for a loss made for another
        procedure, and for one that would only begin after `steps`.
        """
        if self.losses and (not isinstance(learner, AbstractMetricLearner) or learner.capabilities.n_views > 1):
            raise ValueError(
                f"loss=[{','.join(self.losses)}] needs a learner that compares embeddings and trains by one loss, e.g. "
                f"learner=prototypical; {type(learner).__name__} does not"
            )
        for name, loss in self.losses.items():
            if not isinstance(loss, AbstractLoss):
                continue
            if loss.needs_trainer and loss.needs_trainer != trainer:
                raise ValueError(f"loss={name} is made for other batches: it needs trainer={loss.needs_trainer}")
            loss.check_length(steps)

    def of_episode(self, learner: AbstractLearner, episode: Episode, hardware: Hardware) -> tuple[Tensor, Tensor]:
        """The loss of the learner's answer to a batch of episodes, and its mean accuracy. Where several processes share the batch,
        `episode` is this one's part, and the means over processes are those of the batch.
        """
        with hardware.autocast():
            if not self.losses:
                features, prediction = None, learner(episode.task)
            else:
                features = learner.features(episode.task)
                with torch.autocast(features.query.device.type, enabled=False):
                    prediction = learner.classify(features)
        share = present_share()
        loss = torch.zeros((), device=prediction.logits.device)
        if self.own_weight is not None:
            loss = self.own_weight * mean_of_batch(prediction.own_loss(episode), share)
        for term in prediction.auxiliary_losses.values():
            loss = loss + mean_of_batch(term(episode), share)
        if features is not None:
            items = torch.cat([features.support.flatten(2), features.query.flatten(2)], dim=1).flatten(0, 1)
            y = torch.cat([features.support_y, episode.query_y], dim=1)
            labels = episode.answer_class_ids.gather(1, y).flatten()
            loss = loss + self.of_batch(gathered(items, share), gathered(labels, share))
        return loss, mean_of_batch(accuracy(prediction.logits.detach(), episode.query_y), share)

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The weighted sum of the losses of a batch of embeddings `[N, D]`."""
        return sum(self.weights[name] * loss(embeddings, labels) for name, loss in self.losses.items())

    def parameter_groups(self, learned: list[nn.Parameter]) -> list[dict[str, Any]]:
        """What the optimizer moves: the parameters `learned`, and those of each loss, in groups with their `lr_multiplier`.

        Weight decay is for matrices alone. Biases, the weights of norms, scales and boundaries are not pulled to 0: 0 is no simpler
        a value for them than another.
        """
        owned = [(learned, 1.0)]
        owned += [(list(loss.parameters()), self.lr_multipliers.get(name, 1.0)) for name, loss in self.losses.items()]
        groups = []
        for parameters, multiplier in owned:
            matrices = [p for p in parameters if p.ndim > 1]
            others = [p for p in parameters if p.ndim <= 1]
            groups += [{"params": matrices, "lr_multiplier": multiplier}] * bool(matrices)
            groups += [{"params": others, "lr_multiplier": multiplier, "weight_decay": 0.0}] * bool(others)
        return groups
