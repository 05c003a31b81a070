"""FastAP: average precision of each anchor's ranking, through histograms of its distances."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.pairs import mean_where
from episodic.core.losses.loss import AbstractPairLoss, Pairs

FARTHEST = 4.0  # squared distance of opposite unit vectors


class FastAP(AbstractPairLoss):
    """Raises the average precision with which each anchor ranks its positives before its negatives. Counting in ranks has no
    gradient, so distances are sorted into a soft histogram.

    Squared distances of unit vectors lie in [0, 4], which has the nodes `z_l = 4 l / L`, l = 0 .. L. Each distance is shared by the
    two nodes beside it; the nearer one gets more. With the histogram h+ of an anchor's positives, its running sum H+, and the
    running sum H of the histogram of all references:

        FastAP = 1/N+ sum_l h+_l H+_l / H_l,  0 where H_l = 0;   the loss is the mean of 1 - FastAP over anchors with N+ > 0

    Cakir, He, Xia, Kulis, Sclaroff: *Deep Metric Learning to Rank*, CVPR 2019,
    https://openaccess.thecvf.com/content_CVPR_2019/html/Cakir_Deep_Metric_Learning_to_Rank_CVPR_2019_paper.html.

    **Departures:** none from the paper. The backward pass of the authors' PyTorch code is N/2 times the gradient of the mean, N the
    size of the batch, so that their learning rates do not carry over. Their batches are whole classes of two meta-classes; here any
    sampler will do.

    **Arguments:** `n_bins`: L. More bins follow the ranking more closely, and each bin has fewer distances to learn from.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> FastAP()(x, y)
    tensor(0.2917)
    """

    def __init__(self, n_bins: int = 10):
        super().__init__(SquaredEuclidean(), normalize=True)
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, got {n_bins}")
        self.n_bins = n_bins

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        place = matrix.clamp(max=FARTHEST) * (self.n_bins / FARTHEST)
        left = place.detach().long().clamp(max=self.n_bins - 1)
        of_positives = histogram(place - left, left, positive, self.n_bins)
        seen = histogram(place - left, left, positive | negative, self.n_bins).cumsum(1)
        precision = of_positives.cumsum(1) / seen.where(seen > 0, 1)
        average = (of_positives * precision).sum(1) / positive.sum(1).clamp(min=1)
        return mean_where(1 - average, positive.any(1))


def histogram(
    share: Float[Tensor, "anchor reference"],
    left: Int64[Tensor, "anchor reference"],
    mask: Bool[Tensor, "anchor reference"],
    n_bins: int,
) -> Float[Tensor, "anchor node"]:
    """Votes of the references in `mask`: `share` for the node right of `left`, the rest for `left`."""
    votes = share.new_zeros(len(share), n_bins + 1)
    return votes.scatter_add(1, left, mask * (1 - share)).scatter_add(1, left + 1, mask * share)
