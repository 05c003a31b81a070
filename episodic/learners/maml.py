"""Model-Agnostic Meta-Learning, MAML, by learn2learn; its inner loop also serves ANIL."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from episodic._learn2learn import learn2learn_module
from episodic.episodes.arguments import choice, flag, integer, number
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractLearner, Capabilities, embedding_shape
from episodic.learners.prediction import Prediction

BatchNorm = Literal["batch", "running"]


class MAML(AbstractLearner):
    """Learns weights from which a few steps of gradient descent on the support are enough. All weights take these steps, those of
    the backbone and of a linear head on it.

        theta_0 = theta,    theta_{s+1} = theta_s - inner_lr * gradient of L(theta_s),    logits[q] = f(x_q; theta_S)

    with L the mean cross-entropy of the support and S = `inner_steps`, in evaluation `test_inner_steps`. Theta is trained by
    the queries' cross-entropy, its gradient taken through the steps; `first_order` takes the steps' gradients as constants.

    Finn, Abbeel, Levine: *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, ICML 2017,
    https://arxiv.org/abs/1703.03400. The steps are those of `learn2learn.algorithms.MAML`, which adapts one task at a time:
    so there is a Python loop over the episodes of a batch, and all graphs stay in memory until the backward pass.

    With `batch_norm="batch"`, as published, it is transductive: batch norm uses the statistics of the support, then of all queries,
    in evaluation too. With `"running"`, evaluation uses the running statistics and is inductive. The inner loop never used these
    in training, so the accuracy may be much lower. Training is the same. Evaluation changes no statistics.

    The answer depends on how the classes are numbered, since each has its own row of the head.

    Training takes 4 episodes a step, as the paper for 1 shot on miniImageNet (2 for 5 shots; 32 and 16 for 5- and 20-way Omniglot:
    `trainer.episodes_per_step`), and scales gradients down to a norm of 10 (`trainer.clip_norm`). Departure: the released code cuts
    each entry at 10, on miniImageNet alone.

    Departures: the released code's loss is n_way times the mean, so its learning rates are n_way times higher here: 0.01 on
    miniImageNet is 0.05, on Omniglot 0.4 (5-way) and 0.1 (20-way) are both 2. The inner loop changes scale and shift of batch
    norm like all weights, as learn2learn does (paper: no scale, and a shift that stays). Head and backbone start as elsewhere
    here. All in float32: in bf16 the meta-gradient of Conv4 is off by two fifths of its length.

    **Arguments:** the defaults are those of the paper for 5-way miniImageNet. `n_way`: of every task, as the head has a row
    for each class. learn2learn's examples take 1 step of 0.5.

    **Raises:** `ImportError` without learn2learn; `ValueError` for a task of another number of ways.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> backbone.shape = (2,)
    >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> task = Task(support, torch.tensor([[0, 1]]), query=torch.tensor([[[3.0, 1.0]]]), n_way=2)
    >>> MAML(backbone, n_way=2, inner_lr=5.0).eval()(task).logits.argmax(-1)  # doctest: +SKIP
    tensor([[0]])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_way: int,
        inner_lr: float = 0.05,
        inner_steps: int = 5,
        test_inner_steps: int = 10,
        first_order: bool = False,
        batch_norm: BatchNorm = "batch",
    ):
        super().__init__()
        self.inner_loop = InnerLoop("maml", n_way, inner_lr, inner_steps, test_inner_steps, first_order)
        self.backbone = backbone
        self.head = nn.Linear(math.prod(embedding_shape(backbone)), self.inner_loop.n_way)
        self.batch_norm = choice("batch_norm", batch_norm, BatchNorm)
        has_norm = any(isinstance(module, _BatchNorm) for module in backbone.modules())
        self.capabilities = Capabilities(
            transductive=batch_norm == "batch" and has_norm, meta_batch=4, clip_norm=10.0, episodes_apart=True
        )
        self.without_effect = self.inner_loop.without_effect()
        if not has_norm:
            self.without_effect["batch_norm"] = "the backbone has no batch norm"

    def forward(self, task: Task) -> Prediction:
        net = nn.Sequential(self.backbone, nn.Flatten(), self.head)
        by_batch = self.batch_norm == "batch" and not self.training
        with torch.autocast(task.query.device.type, enabled=False):
            return Prediction(self.inner_loop.adapt_and_predict(net, task, self.training, by_batch))


class InnerLoop:
    """Adapts a network to each episode of a task by gradient descent on the support's mean cross-entropy. MAML and ANIL share it.

    **Raises:** `ImportError` without learn2learn, `ValueError` for invalid settings. Both messages name the learner
    `name`.
    """

    def __init__(self, name: str, n_way: int, lr: float, steps: int, test_steps: int, first_order: bool):
        self.n_way = integer("n_way", n_way, at_least=2, note=f", the same for all tasks of learner={name}")
        self.lr = number("inner_lr", lr, above=0, note=" (inner_steps=0 turns the inner loop off)")
        self.steps = integer("inner_steps", steps, at_least=0)
        self.test_steps = integer("test_inner_steps", test_steps, at_least=0)
        self.first_order = flag("first_order", first_order)
        self.algorithm = learn2learn_module("algorithms", f"learner={name}").MAML
        self.name = name

    def without_effect(self) -> dict[str, str]:
        """The settings that nothing reads with these numbers of steps, and why."""
        idle = {} if self.steps else {"first_order": "inner_steps=0 leaves no gradient to go through"}
        if self.steps == self.test_steps == 0:
            idle["inner_lr"] = "inner_steps and test_inner_steps are 0"
        return idle

    def adapt_and_predict(
        self, net: nn.Module, task: Task, training: bool, by_batch: bool = False
    ) -> Float[Tensor, "episode query way"]:
        """Logits of the queries by `net`, items -> logits, adapted to the support; `net` stays as it is.

        Gradients reach `net` and the items if they are enabled. If not, only the inner loop computes gradients.
        `by_batch`: batch norm uses the statistics of the batch in eval mode too.
        """
        if task.n_way != self.n_way:
            raise ValueError(
                f"this learner={self.name} was made for tasks of {self.n_way} ways and has no weights for one of "
                f"{task.n_way}: take a {self.n_way}-way task, in training too (task.train.n_way), or train another run "
                f"with task.n_way={task.n_way}"
            )
        learning = torch.is_grad_enabled()
        # Without learning, first order takes the same steps and needs no graph through them. Frozen weights stay frozen.
        maml = self.algorithm(net, self.lr, first_order=self.first_order or not learning, allow_nograd=True)
        logits = []
        for support, y, query in zip(task.support, task.support_y, task.query, strict=True):
            with torch.inference_mode(False), torch.enable_grad():
                fast = maml.clone()
                if by_batch:
                    replace_all_batch_norm_modules_(fast)  # without statistics of their own; those of `net` stay
                support, y = support.clone(), y.clone()  # autograd refuses tensors made in inference mode
                for _ in range(self.steps if training else self.test_steps):
                    fast.adapt(cross_entropy(fast(support), y))
            logits.append(fast(query))
        return torch.stack(logits)
