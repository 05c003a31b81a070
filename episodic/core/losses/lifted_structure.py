"""Lifted structure loss: a positive pair against all negatives of both of its items."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.euclidean import Euclidean
from episodic.core.functional.pairs import masked_logsumexp, mean_where
from episodic.core.losses.loss import AbstractPairLoss, Pairs
from episodic.episodes.arguments import choice

Variant = Literal["pairs", "generalized"]


class LiftedStructure(AbstractPairLoss):
    """Pulls a positive pair together and pushes both of its items from all of their negatives. A soft maximum over negatives makes
    near ones weigh most.

        pairs:        1/2 [d(i,j) + log(sum over negatives k of i of exp(margin - d(i,k))
                                      + sum over negatives k of j of exp(margin - d(k,j)))]+^2,    the mean over positive pairs
        generalized:  [log(sum over positives p of i of exp(d(i,p)))
                       + log(sum over negatives n of i of exp(margin - d(i,n)))]+,                 the mean over anchors with both

    Oh Song, Xiang, Jegelka, Savarese: *Deep Metric Learning via Lifted Structured Feature Embedding*, CVPR 2016,
    https://arxiv.org/abs/1511.06452, has `pairs`, with a margin of 1. `generalized`, for all positives at once, is from Hermans
    et al., *In Defense of the Triplet Loss for Person Re-Identification*, 2017, https://arxiv.org/abs/1703.07737.

    The negatives of a reference are taken from the anchors. For a batch against itself these are all of its negatives, as in the
    paper. References thus need no distances among themselves. The loss takes N^2 operations, since each item's sum is used for all
    of its pairs.

    **Departures:** with `normalize`, vectors are brought to length 1, which the paper does not do.

    **Arguments:** `margin`: above. `variant`: see above. `distance`: how embeddings compare. `normalize`: compare vectors of
    length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> LiftedStructure(margin=0.5)(x, y)
    tensor(1.5275)
    """

    def __init__(
        self,
        margin: float = 1.0,
        variant: Variant = "pairs",
        distance: AbstractDistance = Euclidean(),
        normalize: bool = True,
    ):
        super().__init__(distance, normalize)
        self.margin = margin
        self.variant = choice("variant", variant, Variant)

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        near = masked_logsumexp(self.margin - matrix, negative)
        if self.variant == "generalized":
            far = masked_logsumexp(matrix, positive)
            return mean_where((far + near).relu(), positive.any(1) & negative.any(1))
        near_reference = masked_logsumexp(self.margin - matrix.mT, negative.mT)
        violation = matrix + torch.logaddexp(near[:, None], near_reference)
        return mean_where(violation.relu().square() / 2, positive)
