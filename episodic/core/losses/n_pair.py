"""N-pair loss: an anchor's positive against one item of every other class."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.dot import Dot
from episodic.core.functional.pairs import References, upcast
from episodic.core.losses.loss import AbstractPairLoss, Batch, Pairs

NO_PAIR = -1  # the label of an anchor without a positive


class NPair(AbstractPairLoss):
    """Tells the positive of an anchor from one item of every other class, by the softmax over their similarities. One item
    represents each class: i+ the class of the anchor i, and j+ another class j.

        log(1 + sum over other classes j of exp(s(i, j+) - s(i, i+))),   the mean over anchors,  + l2 * mean ||x||^2

    Sohn: *Improved Deep Metric Learning with Multi-class N-pair Loss Objective*, NeurIPS 2016,
    https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective. Vectors are not
    normalized; the term of `l2` keeps them short.

    **Departures:** the paper draws two items of each class. Here the last item of a class among the references represents it, and
    every other item of the class is an anchor; with two items that is the paper's loss. So the order within a batch matters. A
    class without an anchor is none of the other classes.

    **Arguments:** `l2`: weight of the mean squared length of the batch. `distance`: how embeddings compare, by similarities.
    `normalize`: compare vectors of length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> NPair()(x, y)
    tensor(0.6825)
    """

    of_similarities = True

    def __init__(self, l2: float = 0.005, distance: AbstractDistance = Dot(), normalize: bool = False):
        super().__init__(distance, normalize)
        self.l2 = l2

    def prepare(self, batch: Batch, against_itself: bool) -> Batch:
        """Compares a batch with itself by the last item of each class: a quarter of the products if classes have two items."""
        if not against_itself:
            return batch
        classes, place = batch.labels.unique(return_inverse=True)
        items = torch.arange(len(batch.labels), device=batch.labels.device)
        last = torch.zeros_like(classes).scatter_reduce(0, place, items, "amax")
        others = items != last[place]
        references = References(batch.embeddings[last], classes)
        return Batch(batch.embeddings[others], batch.labels[others], references)

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        loss = self._cross_entropy(pairs.matrix, pairs.positive, pairs.negative)
        if not self.l2 or pairs.embeddings is None:
            return loss
        return loss + self.l2 * upcast(pairs.embeddings).square().sum() / max(len(pairs.embeddings), 1)

    def _cross_entropy(
        self,
        matrix: Float[Tensor, "anchor reference"],
        positive: Bool[Tensor, "anchor reference"],
        negative: Bool[Tensor, "anchor reference"],
    ) -> Float[Tensor, ""]:
        if not matrix.numel():
            return matrix.sum()
        place = torch.arange(1, matrix.shape[1] + 1, device=matrix.device)
        last = (~negative * place).argmax(1)  # item of the anchor's class, which may be the anchor
        has_pair = positive.gather(1, last[:, None])[:, 0]
        represents = torch.zeros_like(place, dtype=torch.bool).scatter(0, last[has_pair], True)
        # One item represents each class, so the right answer of an anchor is the item of its class.
        answers = matrix.masked_fill(~represents, torch.finfo(matrix.dtype).min)
        each = cross_entropy(answers, last.masked_fill(~has_pair, NO_PAIR), ignore_index=NO_PAIR, reduction="sum")
        return each / has_pair.sum().clamp(min=1)
