"""Margin loss: positives should be nearer, negatives farther than a boundary that may be learned."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.euclidean import Euclidean
from episodic.core.losses.loss import AbstractPairLoss, Pairs
from episodic.core.losses.miners import Chosen, make_miner


class Margin(AbstractPairLoss):
    """Draws a boundary between near and far, which may be learned. It penalizes distances of positive pairs above
    `beta - alpha` and distances of negative pairs below `beta + alpha`.

        [alpha + d(a,p) - beta]+  and  [alpha - d(a,n) + beta]+

    The loss is the sum of both terms over all triplets, and of nu * beta if beta is learned, divided by the number of terms above
    0.

    Wu, Manmatha, Smola, Krähenbühl: *Sampling Matters in Deep Embedding Learning*, ICCV 2017, https://arxiv.org/abs/1706.07567,
    with its distance-weighted negatives, `core.losses.miners.distance_weighted`. A pair counts as often as it is in a triplet.

    **Departures:** the boundary of an anchor is one number for each class, or one for all, where the paper adds one for all, one
    for each class and one for each image. Where `rho` makes an anchor its own positive, that pair costs nothing, whatever the
    boundary.

    **Arguments:** `alpha`: half the width of the gap. `beta`: the boundary, or where it starts. `triplets`: "all" or one of
    `core.losses.miners.MINERS`. `learn_beta`: `beta` is a parameter (the default, as in the paper). `n_classes`: then
    there is one for each class of anchors, or one for all if None. `nu`: weight of the sum of learned boundaries. `rho`: the
    probability of `core.losses.miners.rho_swap`. `distance`: how embeddings compare. `normalize`: compare vectors of length 1.
    `dim`: of the embeddings, for distance-weighted triplets.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> Margin(triplets="all")(x, y).detach()
    tensor(0.5320)
    """

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 1.2,
        triplets: Chosen = "distance_weighted",
        learn_beta: bool = True,
        n_classes: int | None = None,
        nu: float = 0.0,
        rho: float = 0.0,
        distance: AbstractDistance = Euclidean(),
        normalize: bool = True,
        dim: int | None = None,
    ):
        super().__init__(distance, normalize)
        self.dim = dim
        if nu and not learn_beta:
            raise ValueError(f"nu weighs learned boundaries, so it must be 0 without learn_beta, got {nu}")
        self.miner = make_miner(triplets, distance, normalize, dim, rho)
        self.alpha = alpha
        self.n_classes = n_classes if learn_beta else None
        self.beta = nn.Parameter(torch.full((n_classes or 1,), float(beta))) if learn_beta else beta
        self.nu = nu
        if not learn_beta:
            reason = "the boundary is not learned (loss.margin.learn_beta=false)"
            self.without_effect |= {name: reason for name in ("lr_multiplier", "n_classes", "nu")}

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        if self.miner is None:
            as_positive = positive * negative.sum(-1, keepdim=True)
            as_negative = negative * positive.sum(-1, keepdim=True)
        else:
            as_positive, as_negative = self.miner(matrix.detach(), positive, negative).counts()
        beta = self.beta[pairs.labels][:, None] if self.n_classes is not None else self.beta
        too_far, too_near = (self.alpha + matrix - beta).relu(), (self.alpha + beta - matrix).relu()
        total = (as_positive * too_far + as_negative * too_near).sum()
        if self.nu:
            total = total + self.nu * (as_negative * beta).sum()  # each triplet has one negative
        active = (as_positive * (too_far > 0) + as_negative * (too_near > 0)).sum()
        return total * (active > 0) / active.clamp(min=1)
