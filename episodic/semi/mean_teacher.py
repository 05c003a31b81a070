"""Mean Teacher, consistency with an average of the learner's own past."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div, mse_loss
from torch.nn.modules.batchnorm import _BatchNorm

from episodic.episodes.arguments import choice, integer, number
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.learners.prediction import Prediction
from episodic.semi.wrapper import Wrapping

Consistency = Literal["mse", "kl"]


class MeanTeacher(Wrapping, AbstractLearner):
    """Trains a learner, the student, to answer for unlabeled items as its teacher does. The teacher is a running average of the
    student's weights.

        student's loss + weight(t) * distance of the probabilities of student and teacher, a mean over the unlabeled items
        weight(t) = weight * exp(-5 (1 - min(t, ramp_steps) / ramp_steps)^2)
        teacher <- a teacher + (1 - a) student,    a = min(1 - 1 / (t + 1), decay),    after step t = 1, 2, ...

    Student and teacher see the items, the support too, under different draws of the augmentation, and are asked about the
    unlabeled items as if they were queries. Around a wrapper, such as label propagation, student and teacher are that wrapper: it
    has the unlabeled items for these answers as for all others. The distance is the mean squared difference over the classes
    (`mse`) or the divergence KL(teacher || student) (`kl`). In evaluation the teacher answers, so validation, the best checkpoint
    and the test score are the teacher's. `python -m episodic.evaluate run=<run> semi=supervised` scores the student.

    The teacher starts as a copy of the student. Weights and batch-norm statistics of the student are averaged by the same rule;
    counters are copied. In training the teacher normalizes by its own batch.

    Tarvainen, Valpola: *Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep
    learning results*, NeurIPS 2017, https://arxiv.org/abs/1703.01780, there for one classifier of fixed classes. Departures:
    answers to episodes instead of that classifier; consistency on unlabeled items only (the authors' code: labeled ones too); the
    student's loss is a mean over the queries (the authors' code divides the sum over the labeled items by the size of the whole
    batch, so that it weighs as much as their share, and `weight` counts for more); their teacher starts at random and keeps
    batch-norm statistics of its own; one head, not two.

    **Arguments:** `learner`: any. `weight`: between n_way and its square for `mse`, 1 to 10 for `kl`, say the authors; 0 trains
    the learner as without a teacher. `decay`: with `weight=0` and `decay=0` it is the learner itself. `ramp_steps`: 0 for none.
    `mean_teacher` makes one of any learner.

    >>> import torch
    >>> from episodic.learners.prototypical import Prototypical
    >>> backbone = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(backbone.weight, 1.0)
    >>> wrapper = MeanTeacher(Prototypical(backbone), decay=0.25)
    >>> _ = torch.nn.init.constant_(backbone.weight, 5.0)  # what a step of the optimizer may do
    >>> wrapper.after_step()
    >>> wrapper.teacher.backbone.weight.item()  # 0.25 * 1 + 0.75 * 5
    4.0
    """

    changes: Mapping[str, Any] = {"uses_unlabeled": True, "n_views": 2}

    def __init__(
        self,
        learner: AbstractLearner,
        weight: float = 10.0,
        decay: float = 0.999,
        ramp_steps: int = 1000,
        consistency: Consistency = "mse",
    ):
        super().__init__()
        self.learner = learner
        self.teacher = copy.deepcopy(learner)  # with gradients, since MAML adapts its weights to each episode
        for module in self.teacher.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = 0.0  # its running statistics are averages of the student's, not its own
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.weight = number("weight", weight, at_least=0)
        self.decay = number("decay", decay, at_least=0, below=1, note=" (0 makes the teacher the student)")
        self.ramp_steps = integer("ramp_steps", ramp_steps, at_least=0)
        self.consistency = choice("consistency", consistency, Consistency)
        if weight == 0:
            reason = "weight=0 leaves the consistency out"
            self.without_effect = {"ramp_steps": reason, "consistency": reason}

    def forward(self, task: Task) -> Prediction:
        if not self.training:
            return self.teacher(task)
        if self.steps == 0:
            self._average(keep=0.0)  # now, since the student may have begun with the weights of another run
        if not self.weight or task.unlabeled is None:
            return self.learner(task)
        prediction, answers = with_unlabeled_as_queries(self.learner, task)
        with torch.no_grad():
            targets = self.teacher(unlabeled_as_queries(self.teacher, task.second_view)).logits
        distance = (
            self.weight * ramp_up(int(self.steps), self.ramp_steps) * consistency(answers, targets, self.consistency)
        )
        return dataclasses.replace(
            prediction, auxiliary_losses={**prediction.auxiliary_losses, "consistency": lambda episode: distance}
        )

    def learned_parameters(self) -> list[nn.Parameter]:
        return self.learner.learned_parameters()

    def after_step(self) -> None:
        self.learner.after_step()
        self.steps += 1
        self._average(keep=min(1 - 1 / (int(self.steps) + 1), self.decay))

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        for mine, new in zip(self.teacher.state_dict().values(), self.learner.state_dict().values(), strict=True):
            if keep and mine.is_floating_point():
                mine.lerp_(new, 1 - keep)
            else:
                mine.copy_(new)


class MetricMeanTeacher(MeanTeacher, AbstractMetricLearner):
    """The `MeanTeacher` of a metric learner, which can answer on features too. In evaluation these are features of the teacher, in
    training features of the student.
    """

    @property
    def backbone(self) -> nn.Module:
        return (self.learner if self.training else self.teacher).backbone

    def classify(self, features: Task) -> Prediction:
        return (self.learner if self.training else self.teacher).classify(features)


def mean_teacher(
    learner: AbstractLearner,
    weight: float = 10.0,
    decay: float = 0.999,
    ramp_steps: int = 1000,
    consistency: Consistency = "mse",
) -> MeanTeacher:
    """The `MeanTeacher` of a learner, with the arguments of that class. It is itself a metric learner where the learner is one.

    >>> import torch
    >>> from episodic.learners.prototypical import Prototypical
    >>> wrapper = mean_teacher(Prototypical(torch.nn.Identity()), weight=5.0)
    >>> type(wrapper).__name__
    'MetricMeanTeacher'
    >>> wrapper.capabilities.n_views  # training draws the augmentation of a task twice
    2
    """
    kind = MetricMeanTeacher if isinstance(learner, AbstractMetricLearner) else MeanTeacher
    return kind(learner, weight, decay, ramp_steps, consistency)


def with_unlabeled_as_queries(
    learner: AbstractLearner, task: Task
) -> tuple[Prediction, Float[Tensor, "episode unlabeled answers"]]:
    """The prediction for `task`, and the logits for its unlabeled items. Embeddings are computed once, in one batch."""
    if not isinstance(learner, AbstractMetricLearner):
        return learner(task), learner(unlabeled_as_queries(learner, task)).logits
    features = learner.embed(task)
    with torch.autocast(features.query.device.type, enabled=False):
        return learner.classify(features), learner.classify(unlabeled_as_queries(learner, features)).logits


def unlabeled_as_queries(learner: AbstractLearner, task: Task) -> Task:
    """The question about the unlabeled items of a task. A learner that uses them to answer its queries has them for that here too,
    so that its answers are of the kind that it gives.
    """
    kept = task.unlabeled if learner.capabilities.uses_unlabeled else None
    return dataclasses.replace(task, query=task.unlabeled, unlabeled=kept)


def ramp_up(step: int, steps: int) -> float:
    """The factor on the weight of the consistency: `exp(-5 (1 - step / steps)^2)`. From `step = steps` on it is 1.

    >>> round(ramp_up(5, 10), 4), ramp_up(10, 10)
    (0.2865, 1.0)
    """
    return math.exp(-5 * (1 - min(step, steps) / steps) ** 2) if steps else 1.0


def consistency(
    student: Float[Tensor, "episode item answers"], teacher: Float[Tensor, "episode item answers"], kind: str
) -> Float[Tensor, " episode"]:
    """The distance of two answers, given as logits: `mse` or `kl`, a mean over items. The teacher's answer is a constant.

    >>> import torch
    >>> consistency(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, 100.0]]]), "mse")
    tensor([0.2500])
    """
    student, teacher = student.float(), teacher.detach().float()
    if kind == "mse":
        return mse_loss(student.softmax(-1), teacher.softmax(-1), reduction="none").mean((1, 2))
    divergence = kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none")
    return divergence.sum(-1).mean(-1)
