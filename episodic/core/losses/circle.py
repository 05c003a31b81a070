"""Circle loss: pairs weighted by how far each is from where it should be."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import masked_logsumexp, mean_where
from episodic.core.losses.loss import AbstractPairLoss, Pairs


class Circle(AbstractPairLoss):
    """Pulls the similarity of each pair to its optimum: `1 + m` for a positive p, `-m` for a negative n. The farther a pair is from
    its optimum, the stronger it is pulled. For an anchor, with weights a that are constants of the gradient:

        L = log(1 + sum_n exp(gamma a_n (s_n - m)) * sum_p exp(-gamma a_p (s_p - (1 - m))))
        a_p = [1 + m - s_p]+,  a_n = [s_n + m]+

    and the mean over the anchors with a positive and a negative.

    Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei: *Circle Loss: A Unified Perspective of Pair Similarity Optimization*, CVPR 2020,
    https://arxiv.org/abs/2002.10857. The defaults are theirs for retrieval; they take a margin of 0.25 with gamma = 128 for person
    re-identification and 256 for faces. The value is of the order of gamma at first: weigh it so beside other losses.

    **Departures:** only the form for pairs. The paper's form for class weights is the same with the weights as references.

    **Arguments:** `margin`: m. `gamma`: scale of the exponents. `distance`: how embeddings compare, by similarities; the optima are
    meant for cosines. `normalize`: compare vectors of length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> Circle()(x, y)
    tensor(53.1466)
    """

    of_similarities = True

    def __init__(
        self, margin: float = 0.4, gamma: float = 80.0, distance: AbstractDistance = Cosine(), normalize: bool = True
    ):
        super().__init__(distance, normalize)
        if gamma <= 0:
            raise ValueError(f"gamma must be above 0, got {gamma}")
        self.margin = margin
        self.gamma = gamma

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        fixed = matrix.detach()
        pull = self.gamma * (1 + self.margin - fixed).relu() * (1 - self.margin - matrix)
        push = self.gamma * (fixed + self.margin).relu() * (matrix - self.margin)
        of_anchor = softplus(masked_logsumexp(pull, positive) + masked_logsumexp(push, negative))
        return mean_where(of_anchor, positive.any(1) & negative.any(1))
