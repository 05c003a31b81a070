"""Divide and conquer: one learner for each slice of the embedding and each cluster of the data."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.losses.loss import AbstractLoss
from episodic.core.losses.margin import Margin


class DivideAndConquer(AbstractLoss):
    """The margin loss of one slice of the embedding. Each cluster of the training images trains a slice of its own, and in the end
    all images train the whole embedding.

    `trainer=divide_and_conquer` clusters the training images, says which cluster a batch is from, and describes the method.
    Called without a cluster it is the margin loss of the whole embedding.

    Sanakoyeu, Tschernezki, Büchler, Ommer: *Divide and Conquer the Embedding Space for Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1906.05990. Give each slice of the embedding length 1: `head=linear head.normalize=true
    head.slices=<n_learners>`.

    Departures: none known from the paper. The authors' code takes near negatives instead of distance-weighted ones.

    **Arguments:** `dim`: of the embeddings, a multiple of `n_learners`. `n_learners`: 8 in the paper, 4 for small data sets; with 1
    the margin loss. `alpha`, `beta`: see `Margin`.

    **Raises:** `ValueError` where the coordinates cannot be divided evenly among the learners.

    >>> import torch
    >>> loss = DivideAndConquer(dim=8, n_learners=2)
    >>> x, y = torch.eye(8)[:4], torch.tensor([0, 0, 1, 1])
    >>> bool(loss.of_slice(x, y, cluster=0) >= 0)
    True
    """

    needs_trainer = "divide_and_conquer"

    def __init__(self, dim: int, n_learners: int = 4, alpha: float = 0.2, beta: float = 1.2):
        super().__init__()
        if n_learners < 1 or dim % n_learners or dim // n_learners < 2:
            raise ValueError(f"n_learners must share {dim} coordinates evenly, at least 2 each, got {n_learners}")
        self.dim = dim
        self.n_learners = n_learners
        self.part = Margin(alpha, beta, learn_beta=False, dim=dim // n_learners)
        self.whole = Margin(alpha, beta, learn_beta=False, dim=dim)

    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        return self.of_slice(embeddings, labels, None)

    def of_slice(
        self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"], cluster: int | None
    ) -> Float[Tensor, ""]:
        """The loss of a batch from `cluster`, by the slice with that number. With None it is that of the whole embedding."""
        if cluster is None:
            return self.whole(embeddings, labels)
        return self.part(embeddings.chunk(self.n_learners, dim=1)[cluster], labels)
