"""A linear classifier over the training classes, extended by logistic regression on the support."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from episodic.core.functional.implicit import minimize, to_float64
from episodic.core.regularizers.sse import label_swap_of
from episodic.episodes.arguments import integer, number
from episodic.episodes.share import for_whole_batch
from episodic.episodes.task import Episode, Task
from episodic.learners.learner import AbstractMetricLearner, Capabilities, embedding_shape
from episodic.learners.prediction import Prediction


class BaseClassifier(AbstractMetricLearner):
    """A linear classifier of the training classes. It answers an episode by logistic regression on the embeddings of its support.

    Training minimizes the cross-entropy of `W_a f(x) + b_a` over all training classes, with the items of an episode as a batch.
    Evaluation finds weights W_b, b_b of the episode's classes that minimize, to convergence:

        mean over the support of CE([W_b f(x) + b_b, W_a f(x) + b_a], y) + weight_decay / 2 * ||W_b, b_b||^2

    In a task that is not incremental W_a and b_a are left out. That is the baseline of Chen et al., *A Closer Look at Few-shot
    Classification*, ICLR 2019, https://arxiv.org/abs/1904.04232, solved to convergence instead of by 100 steps of SGD. In an
    incremental task it is the first stage of Ren et al., 2019 (see `attention_attractor`), and their method without its
    attractor. Inductive. Features of any shape are flattened.

    **Arguments:** `n_classes`: training classes. `weight_decay`: of the regression on the support (1e-5 in Ren et al.).
    `label_swap`: in training, swaps labels at random (see `core.regularizers.sse`); None swaps nothing.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> backbone.shape = (2,)
    >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> task = Task(support, torch.tensor([[0, 1]]), query=torch.tensor([[[3.0, 1.0]]]), n_way=2)
    >>> BaseClassifier(backbone, n_classes=5).eval()(task).logits.argmax(-1)
    tensor([[0]])
    """

    capabilities = Capabilities(incremental=True)

    def __init__(
        self, backbone: nn.Module, n_classes: int, weight_decay: float = 1e-5, label_swap: nn.Module | None = None
    ):
        super().__init__()
        self.backbone = backbone
        n_classes = integer("n_classes", n_classes, at_least=1)
        self.base = nn.Linear(math.prod(embedding_shape(backbone)), n_classes)
        self.weight_decay = number("weight_decay", weight_decay, above=0, note=", or the regression has no minimum")
        self.label_swap = label_swap_of(n_classes, label_swap)

    def classify(self, features: Task) -> Prediction:
        support, query = features.support.flatten(2), features.query.flatten(2)
        if self.training and features.class_ids is not None:
            return self._over_training_classes(features, support, query)
        x, base_logits, y = support_problem(self.base, features)

        def objective(w: Tensor) -> Tensor:
            own = x @ w.unflatten(-1, (x.shape[-1], features.n_way))
            return joint_cross_entropy(own, base_logits, y) + self.weight_decay / 2 * w.square().sum(-1)

        with torch.inference_mode(False):  # the regression needs gradients, in evaluation too
            # The minimum is flat: the gradient must become far smaller than the decay.
            tolerance = min(1e-6, 1e-4 * self.weight_decay)
            solved = minimize(objective, x.new_zeros(len(x), x.shape[-1] * features.n_way), tolerance=tolerance)
        own = append_bias(query) @ solved.unflatten(-1, (x.shape[-1], features.n_way))
        return Prediction(torch.cat([own, base_logits_of(self.base, features, query)], dim=-1).float())

    def _over_training_classes(self, features: Task, support: Tensor, query: Tensor) -> Prediction:
        of_class = features.class_ids[:, None].expand(-1, query.shape[1], -1)
        logits = torch.cat(
            [self.base(query).gather(-1, of_class), base_logits_of(self.base, features, query).float()], dim=-1
        )

        def loss(episode: Episode) -> Tensor:
            y = episode.answer_class_ids.gather(1, torch.cat([features.support_y, episode.query_y], dim=1))
            scores = self.base(torch.cat([support, query], dim=1))
            return cross_entropy(scores.mT, for_whole_batch(self.label_swap, y), reduction="none").mean(-1)

        return Prediction(logits, loss)


def base_logits_of(
    base: nn.Linear, features: Task, items: Float[Tensor, "episode item dim"]
) -> Float[Tensor, "episode item n_base"]:
    """The logits of the base classes, in float64. There are none if the task is not incremental. In training, base classes that
    play the part of new ones have minus infinity.
    """
    if not features.n_base:
        return to_float64(items.new_empty(*items.shape[:2], 0))
    if features.n_base != base.out_features:
        raise ValueError(f"the task has {features.n_base} base classes, but the learner has {base.out_features}")
    logits = nn.functional.linear(to_float64(items), to_float64(base.weight), to_float64(base.bias))
    if features.class_ids is None:
        return logits
    return logits.masked_fill(classes_played_as_new(features.class_ids, features.n_base)[:, None], float("-inf"))


def classes_played_as_new(class_ids: Int64[Tensor, "episode way"], n_base: int) -> Bool[Tensor, "episode n_base"]:
    """The mask of base classes that play the part of new classes in training.

    >>> classes_played_as_new(torch.tensor([[2, 0]]), n_base=4)
    tensor([[ True, False,  True, False]])
    """
    mask = torch.zeros(len(class_ids), n_base, dtype=torch.bool, device=class_ids.device)
    return mask.scatter(1, class_ids, True)


def support_problem(base: nn.Linear, features: Task) -> tuple[Tensor, Tensor, Tensor]:
    """`(items with a 1, base logits, labels)` of the support. They are copies, so autograd works on them in inference mode too."""
    with torch.inference_mode(False), torch.no_grad():
        support = features.support.flatten(2).clone()
        return append_bias(support), base_logits_of(base, features, support), features.support_y.clone()


def joint_cross_entropy(
    own: Float[Tensor, "episode item way"],
    base_logits: Float[Tensor, "episode item n_base"],
    y: Int64[Tensor, "episode item"],
) -> Float[Tensor, " episode"]:
    """Mean cross-entropy of items of the episode's classes, with a softmax over these and the base classes."""
    joint = torch.cat([own, base_logits], dim=-1).logsumexp(-1)
    return (joint - own.gather(-1, y[..., None])[..., 0]).mean(-1)


def append_bias(items: Float[Tensor, "episode item dim"]) -> Float[Tensor, "episode item dim_and_one"]:
    """The items in float64, each with a 1 for the bias.

    >>> append_bias(torch.tensor([[[2.0, 3.0]]]))
    tensor([[[2., 3., 1.]]], dtype=torch.float64)
    """
    return nn.functional.pad(to_float64(items), (0, 1), value=1.0)
