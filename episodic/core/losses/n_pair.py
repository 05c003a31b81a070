"""N-pair loss: an anchor's positive told from one item of every other class."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from episodic.core.functional.pairs import SIMILARITIES, References, precise
from episodic.core.losses.loss import AbstractPairLoss

NO_PAIR = -1  # in place of a right answer


class NPair(AbstractPairLoss):
    """For the anchor i of a class and the item `+` that serves its class, against those that serve the others.

        log(1 + sum over other classes j of exp(s(i, j+) - s(i, i+))),   the mean over anchors,  + l2 * mean ||x||^2

    Sohn: *Improved Deep Metric Learning with Multi-class N-pair Loss Objective*, NeurIPS 2016,
    https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective. Vectors keep their
    length, which only the term of `l2` holds.

    **Departures:** the paper draws two items of each class. Here the last of a class among the references serves it, and every
    other item of the class is an anchor; with two that is the paper's. So the order within a batch matters. A class without an
    anchor is not told from.

    **Arguments:** `l2`: weight of the mean squared length of the batch. `similarity`: one of `core.pairs.SIMILARITIES`.
    `normalize`: compare vectors of length 1.
    """

    measures = SIMILARITIES

    def __init__(self, l2: float = 0.005, similarity: str = "dot", normalize: bool = False):
        super().__init__(similarity, normalize)
        self.l2 = l2

    def forward(
        self,
        embeddings: Float[Tensor, "item dim"],
        labels: Int64[Tensor, " item"],
        references: References | None = None,
    ) -> Float[Tensor, ""]:
        """As that of any pair loss, and the term of the lengths of `embeddings`."""
        everyone = embeddings
        if references is None:  # a quarter of the products, where a class has two items
            classes, place = labels.unique(return_inverse=True)
            items = torch.arange(len(labels), device=labels.device)
            last = torch.zeros_like(classes).scatter_reduce(0, place, items, "amax")
            others = items != last[place]
            references, embeddings, labels = References(embeddings[last], classes), embeddings[others], labels[others]
        loss = super().forward(embeddings, labels, references)
        return loss + self.l2 * precise(everyone).square().sum() / max(len(everyone), 1) if self.l2 else loss

    def of_matrix(
        self,
        matrix: Float[Tensor, "anchor reference"],
        positive: Bool[Tensor, "anchor reference"],
        negative: Bool[Tensor, "anchor reference"],
    ) -> Float[Tensor, ""]:
        if not matrix.numel():
            return matrix.sum()
        place = torch.arange(1, matrix.shape[1] + 1, device=matrix.device)
        last = (~negative * place).argmax(1)  # of the anchor's class, itself among them
        has_pair = positive.gather(1, last[:, None])[:, 0]
        serves = torch.zeros_like(place, dtype=torch.bool).scatter(0, last[has_pair], True)
        # One item serves a class, so an anchor's own is its right answer among them.
        answers = matrix.masked_fill(~serves, torch.finfo(matrix.dtype).min)
        each = cross_entropy(answers, last.masked_fill(~has_pair, NO_PAIR), ignore_index=NO_PAIR, reduction="sum")
        return each / has_pair.sum().clamp(min=1)
