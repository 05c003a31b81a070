"""Almost No Inner Loop, ANIL, by learn2learn."""

from __future__ import annotations

import math

from torch import nn

from episodic.episodes.task import Task
from episodic.learners.learner import AbstractMetricLearner, Capabilities, embedding_shape
from episodic.learners.maml import InnerLoop
from episodic.learners.prediction import Prediction


class ANIL(AbstractMetricLearner):
    """MAML whose inner loop changes only the linear head. The features of an episode are computed once.

        W_0 = W,    W_{s+1} = W_s - inner_lr * gradient of L(W_s),    logits[q] = W_S f(x_q)

    with a bias, L the mean cross-entropy of the support, and S = `inner_steps`, in evaluation `test_inner_steps`. The
    queries' cross-entropy trains W and f, its gradient taken through the steps; `first_order` takes the steps' gradients as
    constants.

    Raghu, Raghu, Bengio, Vinyals: *Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML*, ICLR
    2020, https://arxiv.org/abs/1909.09157. Inductive. Features of any shape are flattened. The answer depends on how the
    classes are numbered, unless W starts at zero. As in `maml`, learn2learn adapts one episode after the other.

    Departure: evaluation with the running statistics of batch norm; in MAML's code, which the paper builds on, the queries
    are normalized together, which is transductive.

    As in `maml`, training takes 4 episodes a step and clips the gradient.

    **Arguments:** the defaults are those of learn2learn's example. `n_way`: of every task, as the head has a row for each
    class.

    **Raises:** `ImportError` without learn2learn; `ValueError` for a task of another number of ways.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> backbone.shape = (2,)
    >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> task = Task(support, torch.tensor([[0, 1]]), query=torch.tensor([[[3.0, 1.0]]]), n_way=2)
    >>> ANIL(backbone, n_way=2, inner_lr=5.0).eval()(task).logits.argmax(-1)  # doctest: +SKIP
    tensor([[0]])
    """

    capabilities = Capabilities(meta_batch=4, clip_norm=10.0)

    def __init__(
        self,
        backbone: nn.Module,
        n_way: int,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        test_inner_steps: int = 5,
        first_order: bool = False,
    ):
        super().__init__()
        self.inner_loop = InnerLoop("anil", n_way, inner_lr, inner_steps, test_inner_steps, first_order)
        self.backbone = backbone
        self.head = nn.Linear(math.prod(embedding_shape(backbone)), self.inner_loop.n_way)
        self.without_effect = self.inner_loop.without_effect()

    def classify(self, features: Task) -> Prediction:
        net = nn.Sequential(nn.Flatten(), self.head)
        return Prediction(self.inner_loop.adapt_and_predict(net, features, self.training))
