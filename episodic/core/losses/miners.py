"""Miners choose the triplets of an anchor, a positive and a negative that a loss is computed from. Losses name them by the keys of
`MINERS`, as in `Triplet(triplets="hard")`.

A miner is a function of distances `[anchor, reference]` and of the masks of positives and negatives. It chooses pairs of an anchor
and a positive, and one negative for each pair. So matrices of this same shape, `Triplets`, hold any number of triplets. Random
choices come from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from math import inf
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.euclidean import Euclidean
from episodic.episodes.arguments import choice

NEAREST = 0.5  # in distance-weighted sampling, nearer negatives have the weight of this distance
FARTHEST = 1.4  # and none at this distance or farther is drawn: there the margin loss has no gradient


@dataclass(frozen=True)
class Triplets:
    """The triplets that a miner chose. Where `valid` holds there is one: the row's anchor, the column's reference as the positive,
    and the reference number `negative` as the negative.

    `itself`: in this triplet the positive is not the column's reference but the anchor itself.

    >>> distances = torch.tensor([[0.0, 0.4, 0.7, 0.9]])  # of one anchor to itself, a positive and two negatives
    >>> positive = torch.tensor([[False, True, False, False]])
    >>> negative = torch.tensor([[False, False, True, True]])
    >>> triplets = batch_hard(distances, positive, negative)
    >>> triplets.valid, triplets.negative[triplets.valid]
    (tensor([[False,  True, False, False]]), tensor([2]))
    """

    valid: Bool[Tensor, "anchor reference"]
    negative: Int64[Tensor, "anchor reference"]
    itself: Bool[Tensor, "anchor reference"]

    def distances(
        self, distances: Float[Tensor, "anchor reference"]
    ) -> tuple[Float[Tensor, "anchor reference"], Float[Tensor, "anchor reference"]]:
        """From each triplet's anchor to its positive, 0 where that is itself, and to its negative."""
        return distances.masked_fill(self.itself, 0), distances.gather(1, self.negative)

    def counts(self) -> tuple[Int64[Tensor, "anchor reference"], Int64[Tensor, "anchor reference"]]:
        """In how many triplets each reference is the anchor's positive, and in how many its negative."""
        valid = self.valid.long()
        return valid * ~self.itself, torch.zeros_like(valid).scatter_add(1, self.negative, valid)


Miner = Callable[..., Triplets]


def _miner(choose: Miner) -> Miner:
    """`choose` without gradients. It is not called for an empty matrix, which has no triplets."""

    @wraps(choose)
    def mined(distances: Tensor, positive: Tensor, negative: Tensor, **settings) -> Triplets:
        if distances.numel() == 0:
            return Triplets(positive, positive.long(), positive)
        with torch.no_grad():
            return choose(distances.contiguous(), positive, negative, **settings)

    return mined


def _fill_empty_rows(x: Tensor, otherwise: Tensor) -> Tensor:
    """`x`, with the rows of `otherwise` in place of those that are all 0 or False."""
    return torch.where((x > 0).any(-1, keepdim=True), x, otherwise)


def _draw(weights: Tensor, count: int) -> Int64[Tensor, "anchor draw"]:
    """`count` columns for each row, drawn with replacement by its weights. A row of zero weights draws evenly."""
    return _fill_empty_rows(weights.float(), torch.ones_like(weights, dtype=torch.float)).multinomial(
        count, replacement=True
    )


def _one_per_anchor(
    positive_index: Int64[Tensor, "anchor 1"],
    negative_index: Int64[Tensor, "anchor 1"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
) -> Triplets:
    """One triplet for each anchor that has a positive and a negative, of those that were chosen."""
    chosen = torch.zeros_like(positive).scatter(1, positive_index, True)
    valid = chosen & positive & negative.any(-1, keepdim=True)
    return Triplets(valid, negative_index.expand_as(positive), torch.zeros_like(valid))


@_miner
def batch_hard(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
) -> Triplets:
    """One triplet for each anchor, of its farthest positive and its nearest negative. These are the hardest there are.

    Hermans, Beyer, Leibe: *In Defense of the Triplet Loss for Person Re-Identification*, 2017, https://arxiv.org/abs/1703.07737.

    >>> distances = torch.tensor([[0.0, 0.4, 0.6, 0.7, 0.3]])
    >>> positive = torch.tensor([[False, True, True, False, False]])
    >>> negative = torch.tensor([[False, False, False, True, True]])
    >>> to_positive, to_negative = batch_hard(distances, positive, negative).distances(distances)
    >>> to_positive[0, 2], to_negative[0, 2]
    (tensor(0.6000), tensor(0.3000))
    """
    farthest = distances.masked_fill(~positive, -inf).argmax(-1, keepdim=True)
    nearest = distances.masked_fill(~negative, inf).argmin(-1, keepdim=True)
    return _one_per_anchor(farthest, nearest, positive, negative)


@_miner
def semi_hard(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
) -> Triplets:
    """For every positive pair the nearest negative that is farther than the positive. Where none is farther it takes the farthest
    of all.

    Schroff, Kalenichenko, Philbin: *FaceNet: A Unified Embedding for Face Recognition and Clustering*, CVPR 2015,
    https://arxiv.org/abs/1503.03832. The paper wants them within the margin and does not say what to do if there is none. This is
    TensorFlow's reading: no such limit, since the hinge is 0 beyond the margin anyway, and the farthest as a last resort.

    >>> distances = torch.tensor([[0.0, 0.4, 0.6, 0.7, 0.5]])
    >>> positive = torch.tensor([[False, True, True, False, False]])
    >>> negative = torch.tensor([[False, False, False, True, True]])
    >>> semi_hard(distances, positive, negative).negative[positive]
    tensor([4, 3])
    """
    ordered, order = distances.masked_fill(~negative, inf).sort(-1)
    rank = torch.searchsorted(ordered, distances, right=True)
    last = negative.sum(-1, keepdim=True) - 1
    valid = positive & (last >= 0)
    return Triplets(valid, order.gather(1, rank.minimum(last).clamp(min=0)), torch.zeros_like(valid))


@_miner
def soft_hard(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
) -> Triplets:
    """One random triplet for each anchor, of a hard positive and a hard negative. A positive is hard if it is farther than the
    nearest negative, a negative if it is nearer than the farthest positive; where none is, all count.

    Roth, Brattoli: *Deep Metric Learning Baselines*, 2019, https://github.com/Confusezius/Deep-Metric-Learning-Baselines.

    >>> distances = torch.tensor([[0.0, 0.4, 0.6, 0.7, 0.5]])
    >>> positive = torch.tensor([[False, True, True, False, False]])
    >>> negative = torch.tensor([[False, False, False, True, True]])
    >>> triplets = soft_hard(distances, positive, negative)
    >>> triplets.valid.nonzero(), triplets.negative[triplets.valid]
    (tensor([[0, 2]]), tensor([4]))
    """
    nearest = distances.masked_fill(~negative, inf).amin(-1, keepdim=True)
    farthest = distances.masked_fill(~positive, -inf).amax(-1, keepdim=True)
    positive_index = _draw(_fill_empty_rows(positive & (distances > nearest), positive), 1)
    negative_index = _draw(_fill_empty_rows(negative & (distances < farthest), negative), 1)
    return _one_per_anchor(positive_index, negative_index, positive, negative)


def log_weights(distances: Float[Tensor, "*pairs"], dim: int) -> Float[Tensor, "*pairs"]:
    """The negative log density of distances between uniform points of the unit sphere in `dim` dimensions, up to a constant.

    Distances are clamped to `NEAREST`..`FARTHEST`.
    """
    distances = distances.clamp(NEAREST, FARTHEST)
    return (2 - dim) * distances.log() - (dim - 3) / 2 * (1 - distances.square() / 4).log()


@_miner
def distance_weighted(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
    *,
    dim: int,
    distance: AbstractDistance = Euclidean(),
) -> Triplets:
    """For every positive pair a random negative. Negatives are drawn so that all distances below `FARTHEST` are about as frequent,
    because most points of a sphere in many dimensions are equally far from each other.

    Wu, Manmatha, Smola, Krähenbühl: *Sampling Matters in Deep Embedding Learning*, ICCV 2017, https://arxiv.org/abs/1706.07567.
    Embeddings have length 1. An anchor with no negative nearer than `FARTHEST` draws from all of its negatives evenly.
    Weights span hundreds of powers of e at 512 dimensions, so each anchor's are brought to its own largest.

    **Arguments:** `dim`: of the embeddings. `distance`: the distance that computed `distances`; it converts them to Euclidean ones.

    >>> distances = torch.tensor([[0.0, 0.4, 0.7, 1.9]])
    >>> positive = torch.tensor([[False, True, False, False]])
    >>> negative = torch.tensor([[False, False, True, True]])
    >>> distance_weighted(distances, positive, negative, dim=16).negative[positive]  # 1.9 is beyond the farthest
    tensor([2])
    """
    distances = distance.to_euclidean(distances)
    eligible = negative & (distances < FARTHEST)
    weights = log_weights(distances, dim).masked_fill(~eligible, torch.finfo(distances.dtype).min).softmax(-1)
    weights = _fill_empty_rows(weights * eligible, negative.to(weights.dtype))
    valid = positive & negative.any(-1, keepdim=True)
    return Triplets(valid, _draw(weights, weights.shape[1]), torch.zeros_like(valid))


@_miner
def rho_swap(
    distances: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
    *,
    miner: Miner,
    probability: float,
) -> Triplets:
    """The triplets of another miner, some of them swapped: with `probability` (a, p, n) becomes (a, a, p'), where p' is a random
    positive of a. The loss then pushes items of a class apart too, up to its margin, so that embeddings use more directions.

    Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning*, ICML 2020, https://arxiv.org/abs/2002.08473.

    >>> distances = torch.tensor([[0.0, 0.4, 0.7]])
    >>> positive, negative = torch.tensor([[False, True, False]]), torch.tensor([[False, False, True]])
    >>> triplets = rho_swap(distances, positive, negative, miner=batch_hard, probability=1.0)
    >>> triplets.itself, triplets.negative[positive]
    (tensor([[False,  True, False]]), tensor([1]))
    """
    found = miner(distances, positive, negative)
    itself = found.valid & (torch.rand(distances.shape, device=distances.device) < probability)
    return Triplets(found.valid, _draw(positive, positive.shape[1]).where(itself, found.negative), itself)


MINERS = {
    "hard": batch_hard,
    "semi_hard": semi_hard,
    "soft_hard": soft_hard,
    "distance_weighted": distance_weighted,
}


Chosen = Literal["all", "hard", "semi_hard", "soft_hard", "distance_weighted"]


def make_miner(
    triplets: Chosen, distance: AbstractDistance, normalize: bool, dim: int | None, rho: float
) -> Miner | None:
    """The miner that a loss's settings ask for. It is None where the loss takes all triplets.

    **Arguments:** `triplets`: "all" or one of `MINERS`. `distance`: how embeddings compare. `normalize`: whether embeddings
    have length 1. `dim`: of the embeddings. `rho`: the probability of `rho_swap`.

    **Raises:** `ValueError` for settings that do not go together.

    >>> make_miner("hard", Euclidean(), normalize=True, dim=None, rho=0.0) is batch_hard
    True
    """
    choice("triplets", triplets, Chosen)
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must be a probability, got {rho}")
    if triplets == "all":
        if rho:
            raise ValueError(f"rho swaps mined triplets, so it must be 0 for all of them, got {rho}")
        return None
    miner = MINERS[triplets]
    if miner is distance_weighted:
        euclidean = distance.has_distances and distance.to_euclidean(torch.zeros(1)) is not None
        if not euclidean or not (normalize or distance.ignores_length) or dim is None:
            raise ValueError(
                "distance_weighted triplets need dim, normalize and a distance that tells the Euclidean one, "
                f"got dim={dim}, normalize={normalize}, distance={distance}"
            )
        miner = partial(miner, dim=dim, distance=distance)
    return partial(rho_swap, miner=miner, probability=rho) if rho else miner
