"""Self-training inside an episode, with learned weights of its pseudo-labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from episodic.core.functional.prototypes import one_hot
from episodic.episodes.arguments import flag, integer, integers, number
from episodic.episodes.task import Episode, Task
from episodic.learners.learner import AbstractLearner
from episodic.learners.prediction import Prediction, mean_cross_entropy
from episodic.semi._weighting import SoftWeighting
from episodic.semi.wrapper import AbstractWrapper, check_metric_learner

STOPPED = ("max_iter", "no_change", "all_labeled")


class SelfTraining(AbstractWrapper):
    """Gives labels to the unlabeled items of an episode and fits a linear layer to them, in several stages. A network weighs the
    labels.

        f(x) = g(x) + s x W,    g: the learner's logits,    W = 0 at the start of every stage

    A stage labels the unlabeled items by the arg-max of the last stage's f (the first: of an f fitted to the support alone) and
    keeps the `most_confident` of each class. Gradient descent then fits W, `retrain_steps` steps on the support and the items
    kept, `finetune_steps` on the support alone, by the mean over these items of

        cross-entropy of softmax(w_j * f(u_j) / s) and the label,    w = 1 for the support

    with `w_j`, one weight a class, in the mean 1, from a network that sees u_j beside each class (see `SoftWeighting`). Labels, and
    embeddings of support and unlabeled items, are constants to W. In training there is one stage, which keeps all items; the
    queries' cross-entropy of `f / s` after it trains the learner, instead of the learner's own loss. The cross-entropy of `f / s`
    after `retrain_steps` trains the network and nothing else.

    Li, Sun, Liu, Zheng, Zhou, Chua, Schiele: *Learning to Self-Train for Semi-Supervised Few-Shot Classification*, NeurIPS 2019,
    https://arxiv.org/abs/1906.00562. No query sees another. It does not answer with base classes.

    With a `threshold`, `most_confident=null` and `weighting=false` it is plain self-training as in scikit-learn's
    `SelfTrainingClassifier`: in each stage, an item without a label gets its most probable class for good if the
    probability is above the threshold. `self_train` says when each item got its label, and why an episode stopped.

    Departures:

    - The paper learns where its linear classifier starts. Here it starts from the learner; for Prototypical Networks, whose
      logits are linear in x up to a constant a query, that is the linear classifier of the prototypes.
    - The fit depends neither on the scale of the embeddings nor on that of the logits. x is counted from the mean of the
      episode's support and unlabeled items, in units of their root mean square distance to it, so that no direction that all
      items share lets W favor whole classes; there is no bias for the same reason. s is the root mean square deviation of
      their g from its mean over classes: without it there would be nothing left to fit after a learner that is sure of every label.
      All losses see the same `f / s`: a network that was trained by another scale than W is fitted with would learn to undo it.
    - The weights are n_way times the paper's softmax over classes. With that softmax an undecided network divides the logits of
      pseudo-labeled items by n_way; here it leaves them as they are.
    - The loss is a mean (code: a sum divided by the shots). The first labels come after as many steps as the others
      (paper: 10). A class with few items is not filled up by repeats, and each stage sees all unlabeled items (paper: a
      window of them). Batch norm of the network uses running statistics in evaluation.

    **Arguments:**

    - `stages`: 6 in the paper; 0 is the learner itself.
    - `retrain_steps`, `finetune_steps`: in the paper 5 and 15 in training, 10 and 30 in each stage of its tests.
    - `lr`: of W; from 4 on the steps may swing.
    - `most_confident`: how many items of a class are kept, the surest by their odds, as a share of the unlabeled items that a
      class has (paper: 20 of 30); null keeps all. With a `threshold`: how many items a class gets in one stage.
    - `distractors`: how many further classes the unlabeled items are of, so that the share counts those of the task's own classes.
      A range stands for its middle.
    - `threshold`: a probability; null draws all labels anew in each stage.
    - `weighting`: false for w = 1, without a network.

    **Raises:** `ValueError` for a transductive learner.

    >>> import torch
    >>> from episodic import Task
    >>> from episodic.learners.prototypical import Prototypical
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> backbone.shape = (1,)
    >>> support, query, unlabeled = (torch.tensor(x)[None, :, None] for x in ([0.0, 4.0], [1.0], [0.5, 3.0, 5.0]))
    >>> task = Task(support, torch.tensor([[0, 1]]), query, n_way=2, unlabeled=unlabeled)
    >>> wrapper = SelfTraining(Prototypical(backbone), most_confident=None, weighting=False).eval()
    >>> wrapper(task).logits.argmax(-1)
    tensor([[0]])
    >>> wrapper.self_train(task).labels  # what the unlabeled items were taken for
    tensor([[0, 1, 1]])
    """

    changes: Mapping[str, Any] = {"uses_unlabeled": True, "incremental": False}

    def __init__(
        self,
        learner: AbstractLearner,
        stages: int = 3,
        retrain_steps: int = 20,
        finetune_steps: int = 10,
        lr: float = 3.0,
        most_confident: float | None = 0.67,
        distractors: int | tuple[int, int] = 0,
        threshold: float | None = None,
        weighting: bool = True,
    ):
        super().__init__()
        self.stages = stages = integer("stages", stages, at_least=0)
        self.retrain_steps = retrain_steps = integer("retrain_steps", retrain_steps, at_least=0)
        self.finetune_steps = finetune_steps = integer("finetune_steps", finetune_steps, at_least=0)
        self.lr = number("lr", lr, above=0)
        if most_confident is not None:
            most_confident = number(
                "most_confident", most_confident, above=0, at_most=1, note=", a share, or null for all"
            )
        low, high = integers(
            "distractors", [distractors] * 2 if isinstance(distractors, int) else distractors, at_least=0
        )
        self.distractors = (low + high) / 2
        if threshold is not None:
            threshold = number("threshold", threshold, at_least=0, below=1, note=", a probability, or null for none")
        if flag("weighting", weighting) and stages and not retrain_steps:
            raise ValueError("weighting has nothing to weigh with retrain_steps=0; take weighting=false")
        self.learner = check_metric_learner(learner, "self_training")
        if learner.capabilities.transductive:
            raise ValueError(
                f"semi=self_training asks the learner about support and unlabeled items as if they were queries, which "
                f"{type(learner).__name__} lets see each other: take an inductive learner, e.g. learner=prototypical"
            )
        self.keeps_own_loss = stages == 0  # else the learner gives logits, and nothing that it learns by
        self.most_confident, self.threshold = most_confident, threshold
        self.weighting = SoftWeighting(learner.backbone.shape) if weighting else None
        if stages == 0:
            # Not weighting, which decides whether there is a network to train, save and load.
            idle = ("retrain_steps", "finetune_steps", "lr", "most_confident", "distractors", "threshold")
            self.without_effect = dict.fromkeys(idle, "stages=0 is the learner itself")
        elif most_confident is None:
            self.without_effect = {"distractors": "all labels are kept (most_confident=null)"}
        elif retrain_steps == finetune_steps == 0:
            self.without_effect = {"lr": "retrain_steps and finetune_steps are 0, so nothing is fitted"}

    def self_train(self, features: Task) -> SelfTrained:
        """The labels that the unlabeled items of a task of features got, and the answers to its queries. `classify` gives only the
        answers.
        """
        return self._self_train(self._linear_fit(features), self._weights(features).detach())

    def classify_with_unlabeled(self, features: Task) -> Prediction:
        if self.stages == 0:
            return self.learner.classify(dataclasses.replace(features, unlabeled=None))
        fit, weights = self._linear_fit(features), self._weights(features)
        trained = self._self_train(fit, weights.detach())
        pseudo = one_hot(trained.labels, features.n_way)

        def weighting(episode: Episode) -> Float[Tensor, " episode"]:
            constant = fit.detach()
            retrained = constant.descend(constant.targets(pseudo), weights, self.retrain_steps)
            return mean_cross_entropy(constant.fitted_query_logits(retrained) / fit.scale, episode.query_y)

        def loss(episode: Episode) -> Float[Tensor, " episode"]:
            return mean_cross_entropy(trained.logits / fit.scale, episode.query_y)

        terms = {} if self.weighting is None else {"weighting": weighting}
        taken = weights[:, features.support.shape[1] :].detach() / (1 if self.weighting is None else features.n_way)
        return Prediction(trained.logits, loss, terms, unlabeled=pseudo * taken)

    def _weights(self, features: Task) -> Float[Tensor, "episode item way"]:
        """w of the support, which is 1, and of the unlabeled items."""
        n_support, n_way = features.support.shape[1], features.n_way
        if self.weighting is None:
            weights = features.support.new_ones(*features.unlabeled.shape[:2], n_way)
        else:
            support, unlabeled = features.support.detach(), features.unlabeled.detach()
            weights = n_way * self.weighting(unlabeled, support, features.support_y, n_way)
        return pad(weights, (0, 0, n_support, 0), value=1.0)

    def _linear_fit(self, features: Task) -> LinearFit:
        items = torch.cat([features.support, features.unlabeled], dim=1).detach()
        n_query = features.query.shape[1]
        asked = dataclasses.replace(features, query=torch.cat([features.query, items], dim=1), unlabeled=None)
        query_logits, logits = self.learner.classify(asked).logits.tensor_split([n_query], dim=1)
        scale = (logits - logits.mean(-1, keepdim=True)).detach().square().mean((1, 2), keepdim=True).sqrt()
        mean = items.flatten(2).mean(1, keepdim=True)
        x, query = items.flatten(2) - mean, features.query.flatten(2) - mean
        square = x.square().sum(-1).mean(1)[:, None, None]
        rate = self.lr / torch.where(square > 0, square, 1)
        return LinearFit(
            known=one_hot(features.support_y, features.n_way),
            logits=logits,
            kernel=rate * (x @ x.mT),
            query_logits=query_logits,
            query_kernel=rate * (query @ x.mT),
            scale=torch.where(scale > 0, scale, 1),
        )

    def _self_train(self, fit: LinearFit, weights: Tensor) -> SelfTrained:
        n_support, n_way = fit.known.shape[1:]
        labels = torch.full_like(fit.logits[:, n_support:, 0], -1, dtype=torch.long)
        labeled_in = torch.zeros_like(labels)
        settled = torch.zeros_like(labels[:, 0], dtype=torch.bool)
        stages = min(self.stages, 1) if self.training else self.stages
        coefficients = self._fitted(fit, one_hot(labels, n_way), weights) if stages else torch.zeros_like(fit.logits)
        for stage in range(1, stages + 1):
            found = self._label(fit.fitted_logits(coefficients)[:, n_support:].detach(), labels)
            changed = found != labels
            labeled_in = torch.where(changed, stage * (found >= 0), labeled_in)
            labels = found
            if stage < stages:
                settled = ~changed.any(1)
                if settled.all():
                    break
            coefficients = self._fitted(fit, one_hot(labels, n_way), weights)
        done = (labels >= 0).all(1) & (self.threshold is not None)
        return SelfTrained(
            fit.fitted_query_logits(coefficients), labels, labeled_in, torch.where(done, 2, settled.long())
        )

    def _fitted(self, fit: LinearFit, pseudo: Tensor, weights: Tensor) -> Tensor:
        retrained = fit.descend(fit.targets(pseudo), weights, self.retrain_steps)
        return fit.descend(fit.targets(torch.zeros_like(pseudo)), weights, self.finetune_steps, retrained)

    def _label(
        self, logits: Float[Tensor, "episode unlabeled way"], labels: Int64[Tensor, "episode unlabeled"]
    ) -> Int64[Tensor, "episode unlabeled"]:
        """The labels of the next stage, −1 for none."""
        best, guess = logits.max(-1)
        if self.training:
            return guess
        chosen = torch.ones_like(guess, dtype=torch.bool)
        if self.threshold is not None:
            chosen = (labels < 0) & (logits.softmax(-1).amax(-1) > self.threshold)
        if self.most_confident is not None:
            own = one_hot(guess, logits.shape[-1]).bool() & chosen[..., None]
            # Odds rank items whose probabilities are all rounded to 1.
            odds = best[..., None] - logits.scatter(-1, guess[..., None], -torch.inf).logsumexp(-1, keepdim=True)
            a_class = max(1, round(self.most_confident * own.shape[1] / (own.shape[2] + self.distractors)))
            surest = odds.where(own, -torch.inf).topk(a_class, dim=1).indices
            chosen = (own & torch.zeros_like(own).scatter(1, surest, True)).any(-1)
        found = torch.where(chosen, guess, -1)
        return found if self.threshold is None else torch.where(labels >= 0, labels, found)


@dataclasses.dataclass(frozen=True, eq=False)
class SelfTrained:
    """The result of self-training: the labels of the unlabeled items and the answers to the queries after the last stage.

    - `logits [E, Q, n_way]`: of the queries.
    - `labels [E, U]`: the last pseudo-labels, −1 for items without one.
    - `labeled_in [E, U]`: the stage, from 1, since which an item has its label; 0 for items without one.
    - `stopped [E]`: why no further stage followed, as an index into `STOPPED`: "max_iter", it was the last stage; "no_change", no
      label changed; "all_labeled", all items had their final label.
    """

    logits: Float[Tensor, "episode query way"]
    labels: Int64[Tensor, "episode unlabeled"]
    labeled_in: Int64[Tensor, "episode unlabeled"]
    stopped: Int64[Tensor, " episode"]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearFit:
    """The linear layer that is fitted to an episode, by gradient descent on W of `f(x) = g(x) + s x W`. The items are those of the
    episode, its support and then its unlabeled ones.

    W is always a combination of the items X, so only its coefficients A are stored, one row for each item: `W = lr X^T A` and
    `f(x) = g(x) + s k(x) A` with `k_i(x) = lr x . x_i`. One step subtracts the derivative of the loss by `f / s` from A.

    `known`: the support's labels as rows; `logits`, `query_logits`: g; `kernel`, `query_kernel`: k; `scale`: s.
    """

    known: Float[Tensor, "episode support way"]
    logits: Float[Tensor, "episode item way"]
    kernel: Float[Tensor, "episode item item"]
    query_logits: Float[Tensor, "episode query way"]
    query_kernel: Float[Tensor, "episode query item"]
    scale: Float[Tensor, "episode 1 1"]

    def targets(self, pseudo: Float[Tensor, "episode unlabeled way"]) -> Float[Tensor, "episode item way"]:
        """The rows of the support's labels, then those of the `pseudo` labels."""
        return torch.cat([self.known, pseudo], dim=1)

    def descend(self, targets: Tensor, weights: Tensor, steps: int, initial: Tensor | None = None) -> Tensor:
        """A after `steps` steps on the mean cross-entropy of softmax(weights * f / s) over the items with a target, a row of
        `targets` that is not 0.
        """
        counts = targets.sum(-1, keepdim=True)
        shares = weights * counts / counts.sum(1, keepdim=True)
        scaled = self.logits / self.scale
        coefficients = torch.zeros_like(scaled) if initial is None else initial
        for _ in range(steps):
            guess = (weights * (scaled + self.kernel @ coefficients)).softmax(-1)
            coefficients = coefficients - shares * (guess - targets)
        return coefficients

    def fitted_logits(self, coefficients: Tensor) -> Tensor:
        """f of the episode's items."""
        return self.logits + self.scale * (self.kernel @ coefficients)

    def fitted_query_logits(self, coefficients: Tensor) -> Tensor:
        """f of the queries."""
        return self.query_logits + self.scale * (self.query_kernel @ coefficients)

    def detach(self) -> LinearFit:
        """The same fit, a constant to the gradient."""
        return LinearFit(*(getattr(self, field.name).detach() for field in dataclasses.fields(self)))
