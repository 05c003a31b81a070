"""Attention Attractor Networks, for incremental few-shot learning."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from episodic.core.functional.implicit import implicit_gradient, minimize, to_float64
from episodic.core.functional.prototypes import prototypes
from episodic.core.regularizers.sse import label_swap_of
from episodic.episodes.arguments import choice, integer, number
from episodic.episodes.share import for_whole_batch
from episodic.episodes.task import Task
from episodic.learners.base_classifier import (
    append_bias,
    base_logits_of,
    classes_played_as_new,
    joint_cross_entropy,
    support_problem,
)
from episodic.learners.learner import AbstractMetricLearner, Capabilities, embedding_shape
from episodic.learners.prediction import Prediction

Fast = Literal["logistic", "mlp"]


class AttentionAttractor(AbstractMetricLearner):
    """Learns where the weights of new classes should be drawn to, so that they can be used beside the old ones. Training starts
    from a run of `base_classifier`.

    Backbone and base classifier (W_a, b_a) come from `base_classifier` and are frozen. For each episode the fast weights w of its
    classes minimize, to convergence:

        mean over the support of CE(joint logits, y) + weight_decay / 2 * ||w||^2 + R(w)
        R = mean_n sum_d exp(g_d) (w[d, n] - u[d, n])^2,    u_n = sum_k a[n, k] U_k + U_0
        a[n, .] = softmax_k(tau * cos(p_n, W_a[k])),    U_k = V_2 tanh(V_1 W_a[k] + c_1) + c_2

    with p_n the mean embedding of the class. g, U_0, tau, V and c are learned, by the cross-entropy of queries of new and base
    classes over both; the gradient goes through the solution by implicit differentiation (`core/functional/implicit.py`).

    - `fast="logistic"`: logits `w f(x)`, with a bias; the inner problem is convex.
    - `fast="mlp"`: `w_1 tanh(w_2 f(x)) + w_3 f(x)`, each with a bias. V_1 serves all three; V_2, U_0 and g are those of each. All
      hidden units are pulled to one point, which attends from the mean embedding of the whole support by a tau of its own, and
      their part of R is a mean over them.

    exp(g) starts at 0.1 for one shot, and at 0.01 for more, as in the released configurations.

    Ren, Liao, Fetaya, Zemel: *Incremental Few-Shot Learning with Attention Attractor Networks*, NeurIPS 2019,
    https://arxiv.org/abs/1810.07218. Inductive. Features of any shape are flattened.

    Departures: base classes that play the part of new ones in training are left out of the attention (the released code keeps
    their zeroed weights in its softmax). The damped system of recurrent back-propagation is solved instead of iterated 20 times,
    which can diverge. The backbone is in eval mode, as it is frozen. L-BFGS works in float64 (float32 on MPS, which has no
    other), for all episodes at once. The start of w_2 is random but fixed, the others' is the attractor. R is a mean over
    classes, as in the released code (paper: a sum). U_0 starts with a deviation of 0.01 with `fast="mlp"` too (released code: 0.1,
    by a key that it does not read).

    In a task that is not incremental the base logits are left out, and the base weights only serve the attractor.

    **Arguments:** `n_classes`: training classes. `fast`: `logistic` or `mlp`. `hidden`: units of the MLP. `n_shot`: of the task,
    for the start of g; a range is one of several shots. `weight_decay`: of the fast weights. `damping`: of the implicit
    gradient's linear system. `label_swap` (see `core.regularizers.sse`): in training, swaps the rows of W_a in the attention, by
    one draw a step, but not in the base logits; None swaps nothing.

    **Raises:** `ValueError` for another `fast`, and for an episode of all training classes.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> backbone.shape = (2,)
    >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> task = Task(support, torch.tensor([[0, 1]]), query=torch.tensor([[[3.0, 1.0]]]), n_way=2, n_base=5)
    >>> AttentionAttractor(backbone, n_classes=5).eval()(task).logits.shape  # 2 new classes, then 5 old ones
    torch.Size([1, 1, 7])
    """

    capabilities = Capabilities(
        incremental=True,
        needs_init="python -m episodic.train learner=base_classifier run=<dir> on the same task and backbone",
    )

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        fast: Fast = "logistic",
        hidden: int = 40,
        n_shot: int | tuple[int, int] = 1,
        weight_decay: float = 1e-5,
        damping: float = 0.1,
        label_swap: nn.Module | None = None,
    ):
        super().__init__()
        fast = choice("fast", fast, Fast)
        hidden, n_classes = integer("hidden", hidden, at_least=1), integer("n_classes", n_classes, at_least=1)
        dim = math.prod(embedding_shape(backbone))
        self.backbone = backbone
        self.base = nn.Linear(dim, n_classes)
        for frozen in (*backbone.parameters(), *self.base.parameters()):
            frozen.requires_grad_(False)
        self.label_swap = label_swap_of(n_classes, label_swap)
        self.weight_decay = number("weight_decay", weight_decay, at_least=0)
        self.damping = number("damping", damping, at_least=0)
        one_shot = (n_shot if isinstance(n_shot, int) else max(n_shot)) == 1
        precision = 0.1 if one_shot else 0.01
        self.first = nn.Linear(dim, 50)
        nn.init.normal_(self.first.weight, std=0.01)
        nn.init.zeros_(self.first.bias)
        self.class_sharpness = nn.Parameter(torch.tensor(2.0))
        self.linear = Attractor(dim + 1, precision)
        self.output = self.layer = None
        if fast == "mlp":
            self.episode_sharpness = nn.Parameter(torch.tensor(2.0))
            self.output = Attractor(hidden + 1, precision)
            self.layer = Attractor(dim + 1, precision)
            start = torch.empty(hidden, dim + 1).uniform_(-0.01, 0.01, generator=torch.Generator().manual_seed(0))
            self.register_buffer("layer_start", start, persistent=False)
        self.without_effect = {} if fast == "mlp" else {"hidden": "only fast=mlp has hidden units"}

    def train(self, mode: bool = True) -> AttentionAttractor:
        super().train(mode)
        self.backbone.eval()
        return self

    def classify(self, features: Task) -> Prediction:
        learning = torch.is_grad_enabled()
        x, base_logits, y = support_problem(self.base, features)
        with torch.inference_mode(False):  # the inner problem needs gradients, in evaluation too
            with torch.set_grad_enabled(learning):
                groups = self._groups(x[..., :-1].float(), y, features)

            def objective(w: Tensor) -> Tensor:
                parts = _split(w, groups)
                pull = sum(attractor.pull(part, u) for (attractor, u), part in zip(groups, parts, strict=True))
                decay = self.weight_decay / 2 * w.square().sum(-1)
                return joint_cross_entropy(_logits(x, parts), base_logits, y) + decay + pull

            start = [to_float64(u.detach()) for _, u in groups]
            if self.layer is not None:
                start[2] = to_float64(self.layer_start).expand_as(start[2])
            fast = minimize(objective, torch.cat([part.flatten(1) for part in start], dim=1))
            if learning:
                fast = implicit_gradient(objective, fast, damping=self.damping)
        query = features.query.flatten(2)
        own = _logits(append_bias(query), _split(fast, groups))
        return Prediction(torch.cat([own, base_logits_of(self.base, features, query)], dim=-1).float())

    def _dropped(self, keys: Tensor) -> Tensor:
        return nn.functional.dropout(keys, 0.1, self.training)

    def _groups(self, support: Tensor, y: Tensor, features: Task) -> list[tuple[Attractor, Tensor]]:
        """The groups of fast weights: an attractor and where it pulls to, `[E, units, rows]`, for each."""
        mask = None if features.class_ids is None else classes_played_as_new(features.class_ids, self.base.out_features)
        if mask is not None and mask.all(-1).any():
            raise ValueError(
                f"an episode has all {self.base.out_features} training classes, so none is left to attend to: take fewer ways"
            )
        rows = self.label_swap(torch.arange(self.base.out_features, device=support.device))
        base = self.base.weight[rows]
        mask = None if mask is None else mask[:, rows]
        values = self.first(base).tanh()
        of_class = for_whole_batch(self._dropped, prototypes(support, y, features.n_way))
        attention = attend(of_class, base, mask, self.class_sharpness)
        groups = [(self.linear, self.linear(attention, values))]
        if self.layer is not None:
            groups.append((self.output, self.output(attention, values)))
            attention = attend(support.mean(1, keepdim=True), base, mask, self.episode_sharpness)
            units = self.layer_start.shape[0]
            groups.append((self.layer, self.layer(attention, values).expand(-1, units, -1)))
        return groups


def attend(
    keys: Float[Tensor, "episode key dim"],
    base: Float[Tensor, "n_base dim"],
    mask: Bool[Tensor, "episode n_base"] | None,
    sharpness: Float[Tensor, ""],
) -> Float[Tensor, "episode key n_base"]:
    """The softmax over base classes of `sharpness` times the cosine of a key and their weights. Masked classes get 0."""
    norms = (keys.norm(dim=-1) + 1e-5)[..., None] * (base.norm(dim=-1) + 1e-5)
    scores = sharpness * (keys @ base.mT) / norms
    return (scores if mask is None else scores.masked_fill(mask[:, None], float("-inf"))).softmax(-1)


class Attractor(nn.Module):
    """The point to which the fast weights of a unit are pulled, a mean of values of the base classes plus a shift, and the strength
    of the pull on each of its `rows` weights. All are learned.

    `precision` is the initial strength.
    """

    def __init__(self, rows: int, precision: float):
        super().__init__()
        self.value = nn.Linear(50, rows)
        nn.init.normal_(self.value.weight, std=0.01)
        nn.init.zeros_(self.value.bias)
        self.shift = nn.Parameter(0.01 * torch.randn(rows))
        self.log_precision = nn.Parameter(torch.full((rows,), math.log(precision)))

    def forward(
        self, attention: Float[Tensor, "episode key n_base"], values: Float[Tensor, "n_base 50"]
    ) -> Float[Tensor, "episode key row"]:
        return attention @ self.value(values) + self.shift

    def pull(
        self, weights: Float[Tensor, "episode unit row"], u: Float[Tensor, "episode unit row"]
    ) -> Float[Tensor, " episode"]:
        """The penalty on the distance of `weights` from `u`: a sum over rows, a mean over units (classes or hidden units)."""
        return (self.log_precision.exp() * (weights - u).square()).sum(-1).mean(-1)


def _split(w: Tensor, groups: list[tuple[Attractor, Tensor]]) -> list[Tensor]:
    """Flat fast weights `[E, P]` as one `[E, units, rows]` a group."""
    flat = w.split([u[0].numel() for _, u in groups], dim=1)
    return [part.view_as(u) for part, (_, u) in zip(flat, groups, strict=True)]


def _logits(x: Tensor, parts: list[Tensor]) -> Tensor:
    """Logits `[E, items, n_way]` of the episode's classes; `x` ends in a 1 for the bias."""
    linear, *rest = parts
    logits = x @ linear.mT
    if rest:
        output, layer = rest
        logits = logits + nn.functional.pad((x @ layer.mT).tanh(), (0, 1), value=1.0) @ output.mT
    return logits
