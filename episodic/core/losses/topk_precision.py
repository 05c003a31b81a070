"""Top-k precision: no negative among an anchor's k most similar references while a positive is left out."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import mean_where
from episodic.core.losses.loss import AbstractPairLoss, Pairs


class TopKPrecision(AbstractPairLoss):
    """Brings positives into an anchor's list of the k most similar references, and negatives out of it. The loss is how much larger
    the similarities in this list are, in sum, than those in the best list that the labels allow. With
    `s^ = s + margin` for negatives, `s^ = s` for positives, and n+ the number of positives:

        L = sum of the top k of s^ - sum of the top min(k, n+) of the positives' - sum of the top [k - n+]+ of the negatives'

    In the difference only items next to the border of the list remain: the lowest negatives inside and the highest positives
    outside, as many as should change places. L is 0 if min(k, n+) positives beat by the margin the negatives that would take their
    places. k is at most the number of references; the mean is over the anchors with a positive.

    Lu, Xu, Zhang, Duan, Mei: *Sampling Wisely: Deep Image Embedding by Top-k Precision Optimization*, ICCV 2019,
    https://openaccess.thecvf.com/content_ICCV_2019/html/Lu_Sampling_Wisely_Deep_Image_Embedding_by_Top-K_Precision_Optimization_ICCV_2019_paper.html.

    **Departures:** only the hard form, to which the authors' settings amount. Their code takes the mean in each class and
    then the sum over classes, so with P classes of equal size it is P times this, and adds two terms that the definition does not
    have: a soft maximum inside each sum, and a penalty on the covariance of embeddings.

    **Arguments:** `k`: length of the list. `margin`: gamma, by which positives should win; the authors take 0.2 for many classes.
    `distance`: how embeddings compare, by similarities. `normalize`: compare vectors of length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> TopKPrecision(k=1)(x, y)
    tensor(0.2750)
    """

    of_similarities = True

    def __init__(self, k: int = 5, margin: float = 0.05, distance: AbstractDistance = Cosine(), normalize: bool = True):
        super().__init__(distance, normalize)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self.margin = margin

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        matrix = torch.where(negative, matrix + self.margin, matrix)
        k = positive.new_full(matrix.shape[:1], self.k, dtype=torch.long)
        room = k - positive.sum(1)
        found = sum_of_top(matrix, positive | negative, k, self.k)
        best = sum_of_top(matrix, positive, k, self.k) + sum_of_top(matrix, negative, room, self.k)
        return mean_where(found - best, positive.any(1))


def sum_of_top(
    x: Float[Tensor, "anchor reference"],
    mask: Bool[Tensor, "anchor reference"],
    count: Int64[Tensor, " anchor"],
    most: int,
) -> Float[Tensor, " anchor"]:
    """The sum of the `count` largest `x` where `mask` holds, or of all if there are fewer. No count is above `most`."""
    most = min(most, x.shape[1])
    values = x.masked_fill(~mask, torch.finfo(x.dtype).min).topk(most).values
    wanted = torch.arange(most, device=x.device) < torch.minimum(count, mask.sum(1))[:, None]
    return torch.where(wanted, values, 0).sum(1)
