"""Triplet loss: every anchor should be nearer to its positives than to its negatives, by a margin."""

from __future__ import annotations

from math import inf

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.pairs import mean_where
from episodic.core.losses.loss import AbstractPairLoss, Pairs
from episodic.core.losses.miners import Chosen, make_miner

LARGEST = 2**23  # triplets computed at a time in the smooth loss of all triplets


class Triplet(AbstractPairLoss):
    """Wants every anchor nearer to its positives than to its negatives, by a margin. It penalizes triplets of an anchor a, a
    positive p and a negative n that is not farther than p by `margin`.

        [d(a,p) - d(a,n) + margin]+       or, `smooth`,  log(1 + exp(d(a,p) - d(a,n)))

    Schroff, Kalenichenko, Philbin: *FaceNet: A Unified Embedding for Face Recognition and Clustering*, CVPR 2015,
    https://arxiv.org/abs/1503.03832: squared distances of unit vectors, margin 0.2, semi-hard negatives. `smooth` and
    `triplets="hard"` are those of Hermans et al., *In Defense of the Triplet Loss for Person Re-Identification*, 2017,
    https://arxiv.org/abs/1703.07737, with `distance=Euclidean()` and `normalize=False`; `core.losses.miners`
    describes the others.

    The loss is the mean over the triplets that a miner chooses. Of all triplets it is the mean over those above 0, so that easy
    ones do not dilute it; with `smooth` all are above 0. All triplets of N items take memory of N^2. With the hinge they take
    time of N^2 log N. With `smooth` the time is that of N^3 terms, and large batches are computed in parts, once more in the
    backward pass.

    **Arguments:** `margin`: of the hinge, in units of `distance`; `smooth` has none. `triplets`: "all" or one of
    `core.losses.miners.MINERS`. `distance`: how embeddings compare. `normalize`: compare vectors of length 1. `rho`: the
    probability of `core.losses.miners.rho_swap`. `dim`: of the embeddings, for distance-weighted triplets.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> Triplet(triplets="all")(x, y)
    tensor(0.8667)
    """

    def __init__(
        self,
        margin: float = 0.2,
        triplets: Chosen = "semi_hard",
        smooth: bool = False,
        distance: AbstractDistance = SquaredEuclidean(),
        normalize: bool = True,
        rho: float = 0.0,
        dim: int | None = None,
    ):
        super().__init__(distance, normalize)
        self.dim = dim
        self.miner = make_miner(triplets, distance, normalize, dim, rho)
        self.margin = margin
        self.smooth = smooth
        if smooth:
            self.without_effect["margin"] = "smooth triplets have none (loss.triplet.smooth=true)"

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        if self.miner is None:
            if self.smooth:
                return mean_of_smooth(matrix, positive, negative)
            return mean_of_active(matrix, positive, negative, self.margin)
        triplets = self.miner(matrix.detach(), positive, negative)
        to_positive, to_negative = triplets.distances(matrix)
        gap = to_positive - to_negative
        return mean_where(softplus(gap) if self.smooth else (gap + self.margin).relu(), triplets.valid)


def active_counts(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
    margin: float,
) -> tuple[Int64[Tensor, "anchor reference"], Int64[Tensor, "anchor reference"]]:
    """In how many triplets with `d(a,n) < d(a,p) + margin` each pair is the positive one, and in how many the negative one."""
    most = int(positive.sum(-1).max()) if positive.numel() else 0
    reach, place = (distances + margin).masked_fill(~positive, -inf).topk(most, sorted=True)
    reach = reach.flip(-1)
    negatives = distances.masked_fill(~negative, inf).sort(-1).values
    near_negatives = torch.searchsorted(negatives, reach)
    satisfied = torch.searchsorted(reach, distances.contiguous(), right=True)
    return torch.zeros_like(satisfied).scatter(1, place.flip(-1), near_negatives), negative * (most - satisfied)


def mean_of_active(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
    margin: float,
) -> Float[Tensor, ""]:
    """The mean of all hinges above 0.

    A hinge above 0 is linear in its two distances, so each distance is weighted by the number of such triplets that it is in.
    """
    as_positive, as_negative = active_counts(distances.detach(), positive, negative, margin)
    count = as_positive.sum()
    weights = (as_positive - as_negative).to(distances.dtype) / count.clamp(min=1)
    return (weights * distances).sum() + margin * (count > 0)


def mean_of_smooth(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
) -> Float[Tensor, ""]:
    """The mean of `log(1 + exp(d(a,p) - d(a,n)))` over all triplets, in parts of a few positives of every anchor."""
    count = positive.sum(-1)
    most = int(count.max()) if positive.numel() else 0
    order = positive.byte().argsort(-1, descending=True)[:, :most]  # positives first
    taken, to_positive = positive.gather(1, order), distances.gather(1, order)
    part = max(1, LARGEST // max(1, distances.numel()))
    parts = list(zip(to_positive.split(part, 1), taken.split(part, 1), strict=True))
    if len(parts) == 1:
        total = _sum_of_smooth(*parts[0], distances, negative)
    else:
        total = sum(checkpoint(_sum_of_smooth, *each, distances, negative, use_reentrant=False) for each in parts)
    return total / (count * negative.sum(-1)).sum().clamp(min=1)


def _sum_of_smooth(
    to_positive: Float[Tensor, "anchor part"],
    taken: Bool[Tensor, "anchor part"],
    distances: Float[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
) -> Float[Tensor, ""]:
    each = softplus(to_positive[:, :, None] - distances[:, None])
    return (each * (taken[:, :, None] & negative[:, None])).sum()
