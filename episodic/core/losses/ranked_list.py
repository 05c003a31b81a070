"""Ranked list loss: positives of a query should lie inside a sphere, negatives outside a wider one."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.euclidean import Euclidean
from episodic.core.losses.loss import AbstractPairLoss, Batch, Pairs
from episodic.episodes.arguments import choice

Variant = Literal["cvpr", "tpami"]
IMBALANCE = {"cvpr": 1.0, "tpami": 0.5}


class RankedList(AbstractPairLoss):
    """Pulls all positives of a query inside a sphere and pushes all negatives out of a wider one. Pairs that are where they should
    be do not count: one list has the positives farther than `alpha - m`, another the negatives nearer than `alpha`. With their
    violations `v = d - (alpha - m)` of a positive and `v = alpha - d` of a negative, and weights `w = exp(T v)` on each list:

        L_P = sum w v / sum w  over the positives listed,  L_N  likewise,  0 for an empty list
        cvpr:   L = L_P + imbalance L_N
        tpami:  L = (1 - imbalance) L_P + imbalance L_N

    and the mean over all queries. A temperature T of 0 gives the plain mean, a high one the hardest.

    Wang, Hua, Kodirov, Hu, Garnier, Robertson: *Ranked List Loss for Deep Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1903.03238, extended in TPAMI 2021. The weights and the references (the gallery) are constants to the
    gradient there: a query moves, the items that it is compared with do not. This is the loss of one head; their RLL-(L,M,H) is
    three of these, on three heads at three stages of a network, added.

    **Departures:** none.

    **Arguments:** `alpha`: radius that negatives stay outside of. `margin`: m, between the two spheres. `temperature`,
    `positive_temperature`: T for negatives and for positives. `variant`: see above. `imbalance`: None for 1 in the variant
    `cvpr` and 0.5 in `tpami`. `detach_weights`: no gradient through w. `gallery_grad`: whether references learn too.
    `distance`: how embeddings compare. `normalize`: compare vectors of length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> RankedList()(x, y)
    tensor(0.6381)
    """

    def __init__(
        self,
        alpha: float = 1.2,
        margin: float = 0.4,
        temperature: float = 10.0,
        positive_temperature: float = 0.0,
        variant: Variant = "cvpr",
        imbalance: float | None = None,
        detach_weights: bool = True,
        gallery_grad: bool = False,
        distance: AbstractDistance = Euclidean(),
        normalize: bool = True,
    ):
        super().__init__(distance, normalize)
        self.imbalance = IMBALANCE[choice("variant", variant, Variant)] if imbalance is None else imbalance
        if self.imbalance < 0 or (variant == "tpami" and self.imbalance > 1):
            raise ValueError(
                f"imbalance must be at least 0, and at most 1 in the variant tpami, got {imbalance} in the variant {variant}"
            )
        self.alpha = alpha
        self.margin = margin
        self.temperature = temperature
        self.positive_temperature = positive_temperature
        self.variant = variant
        self.detach_weights = detach_weights
        self.gallery_grad = gallery_grad
        if temperature == positive_temperature == 0:
            self.without_effect["detach_weights"] = "all weights are equal where both temperatures are 0"

    def prepare(self, batch: Batch, against_itself: bool) -> Batch:
        if self.gallery_grad:
            return batch
        references = dataclasses.replace(batch.references, embeddings=batch.references.embeddings.detach())
        return dataclasses.replace(batch, references=references)

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        pull = self.mean_violation(matrix - (self.alpha - self.margin), positive, self.positive_temperature)
        push = self.mean_violation(self.alpha - matrix, negative, self.temperature)
        pull_weight = 1.0 if self.variant == "cvpr" else 1 - self.imbalance
        return (pull_weight * pull + self.imbalance * push).sum() / max(len(matrix), 1)

    def mean_violation(
        self,
        violation: Float[Tensor, "anchor reference"],
        mask: Bool[Tensor, "anchor reference"],
        temperature: float,
    ) -> Float[Tensor, " anchor"]:
        """The weighted mean over each anchor's list: the violations above 0 where `mask` holds."""
        listed = mask & (violation.detach() > 0)
        exponents = temperature * (violation.detach() if self.detach_weights else violation)
        weights = exponents.masked_fill(~listed, torch.finfo(violation.dtype).min).softmax(-1)
        return torch.where(listed, weights * violation, 0).sum(-1)
