"""Contrastive loss: positive pairs should be near each other, negative pairs beyond a margin."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.euclidean import Euclidean
from episodic.core.functional.pairs import mean_where
from episodic.core.losses.loss import AbstractPairLoss, Pairs
from episodic.episodes.arguments import choice, number

Variant = Literal["hinge", "squared", "xbm"]


class Contrastive(AbstractPairLoss):
    """Pulls pairs of one class together and pushes pairs of two classes apart. It penalizes distances of positive pairs above
    `positive_margin` and distances of negative pairs below `negative_margin`.

        hinge:    [d - positive_margin]+  and  [negative_margin - d]+,  the mean of what is above 0, of each kind, added
        squared:  1/2 [d - positive_margin]+^2  and  1/2 [negative_margin - d]+^2,  the mean over all pairs
        xbm:      1 - s = d  and  s = 1 - d where that is above `negative_margin`,  the sum over pairs by the number of anchors

    Hadsell, Chopra, LeCun: *Dimensionality Reduction by Learning an Invariant Mapping*, CVPR 2006,
    http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf, has the `squared` variant with a positive margin of 0.
    `hinge` is the usual form in metric learning today, as in Musgrave et al., *A Metric Learning Reality Check*, ECCV 2020.
    `xbm`, for `distance=Cosine()`, is that of the authors of cross-batch memory: the value of a negative pair is `s`, not
    `s - margin`, and its sums grow with the number of references.

    **Arguments:** `positive_margin`, `negative_margin`: in units of `distance`; the variant `xbm` has no positive margin.
    `variant`: see above. `rho`: the probability that a positive pair is pushed apart like a negative one, so that embeddings use
    more directions (Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in
    Deep Metric Learning*, ICML 2020, https://arxiv.org/abs/2002.08473). `distance`: how embeddings compare. `normalize`: compare
    vectors of length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> Contrastive()(x, y)
    tensor(1.5219)
    """

    def __init__(
        self,
        positive_margin: float = 0.0,
        negative_margin: float = 1.0,
        variant: Variant = "hinge",
        rho: float = 0.0,
        distance: AbstractDistance = Euclidean(),
        normalize: bool = True,
    ):
        super().__init__(distance, normalize)
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.variant = choice("variant", variant, Variant)
        self.rho = number("rho", rho, at_least=0, at_most=1, note=", a probability")
        if variant == "xbm":
            self.without_effect["positive_margin"] = "the variant xbm has none (loss.contrastive.variant=xbm)"

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        if self.rho:
            swapped = positive & (torch.rand(matrix.shape, device=matrix.device) < self.rho)
            positive, negative = positive & ~swapped, negative | swapped
        if self.variant == "xbm":
            far = (negative & (1 - matrix.detach() > self.negative_margin)) * (1 - matrix)
            return (positive * matrix + far).sum() / max(len(matrix), 1)
        if self.variant == "hinge":
            # Each term is linear in its distance, so the sum is a product with constant weights: fewer passes over the matrix.
            fixed = matrix.detach()
            too_far, too_near = positive & (fixed > self.positive_margin), negative & (fixed < self.negative_margin)
            far, near = (mask / mask.sum().clamp(min=1) for mask in (too_far, too_near))
            edge = self.negative_margin * too_near.any() - self.positive_margin * too_far.any()
            return ((far - near) * matrix).sum() + edge
        too_far, too_near = (matrix - self.positive_margin).relu(), (self.negative_margin - matrix).relu()
        return mean_where((positive * too_far + negative * too_near).square() / 2, positive | negative)
