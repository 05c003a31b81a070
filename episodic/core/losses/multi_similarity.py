"""Multi-similarity loss: informative pairs, weighted by self and relative similarity."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import masked_logsumexp
from episodic.core.losses.loss import AbstractPairLoss, Pairs


class MultiSimilarity(AbstractPairLoss):
    """Pulls positives above a similarity and pushes negatives below it, both softly. Only informative pairs count: negatives that
    are about as similar as the least similar positive, and positives about as dissimilar as the most similar negative. For the
    informative positives P and negatives N of an anchor:

        L = 1/alpha log(1 + sum_P exp(-alpha (s - base))) + 1/beta log(1 + sum_N exp(beta (s - base)))

    A negative is informative if `s + epsilon` is above the anchor's lowest positive, a positive if `s - epsilon` is below its
    highest negative. The mean is over all anchors; an anchor without informative pairs counts as 0.

    Wang, Han, Huang, Dong, Scott: *Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1904.06627.

    **Departures:** `base`, their lambda, is 0.5 as in their code, where the paper has 1; their code also has beta = 40. An item is
    excluded from its own positives by its index; their code drops every positive with a cosine of 1, copies too.

    **Arguments:** `alpha`, `beta`: sharpness for positives and negatives. `base`: where a similarity should lie above or below.
    `epsilon`: how much easier than the hardest an informative pair may be; None for all pairs. `distance`: how embeddings
    compare, by similarities. `normalize`: compare vectors of length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> MultiSimilarity()(x, y)
    tensor(0.3889)
    """

    of_similarities = True

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = 0.1,
        distance: AbstractDistance = Cosine(),
        normalize: bool = True,
    ):
        super().__init__(distance, normalize)
        if min(alpha, beta) <= 0:
            raise ValueError(f"alpha and beta must be above 0, got {alpha} and {beta}")
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        if self.epsilon is not None:
            positive, negative = informative_pairs(matrix.detach(), positive, negative, self.epsilon)
        above = matrix - self.base
        pull = masked_logsumexp(-self.alpha * above, positive, one=True) / self.alpha
        push = masked_logsumexp(self.beta * above, negative, one=True) / self.beta
        return (pull + push).sum() / max(len(matrix), 1)


def informative_pairs(
    similarity: Float[Tensor, "anchor reference"],
    positive: Bool[Tensor, "anchor reference"],
    negative: Bool[Tensor, "anchor reference"],
    epsilon: float,
) -> tuple[Bool[Tensor, "anchor reference"], Bool[Tensor, "anchor reference"]]:
    """The informative positives and negatives. An anchor without positives or without negatives has none."""
    # The padding is the result for an anchor without positives or negatives, and for one without references.
    lowest = pad(similarity.masked_fill(~positive, torch.inf), (0, 1), value=torch.inf).amin(1, keepdim=True)
    highest = pad(similarity.masked_fill(~negative, -torch.inf), (0, 1), value=-torch.inf).amax(1, keepdim=True)
    return positive & (similarity - epsilon < highest), negative & (similarity + epsilon > lowest)
