"""Supervised contrastive loss: each positive against all other references, by softmax."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.distance import AbstractDistance
from episodic.core.functional.pairs import masked_logsumexp, mean_where
from episodic.core.losses.loss import AbstractPairLoss, Pairs


class SupCon(AbstractPairLoss):
    """Tells each positive of an anchor from all other items of the batch, by the softmax over their similarities. It is the
    supervised form of contrastive learning. For an anchor with positives P and all other references A, itself not among them:

        L = -1/|P| sum_{p in P} log(exp(s_p / t) / sum_{a in A} exp(s_a / t))

    This is their L_out, with the mean over positives outside of the logarithm. The mean is over the anchors with a positive.

    Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan: *Supervised Contrastive Learning*, NeurIPS 2020,
    https://arxiv.org/abs/2004.11362.

    **Departures:** the mean over anchors, where the paper writes their sum. The authors' code multiplies by t / 0.07 besides. In
    the paper each image is in the batch twice, as two augmented views; here the caller chooses the batch.

    **Arguments:** `temperature`: t. `distance`: how embeddings compare, by similarities. `normalize`: compare vectors of
    length 1.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> SupCon(temperature=0.5)(x, y)
    tensor(0.8861)
    """

    of_similarities = True

    def __init__(self, temperature: float = 0.1, distance: AbstractDistance = Cosine(), normalize: bool = True):
        super().__init__(distance, normalize)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, ""]:
        matrix, positive, negative = pairs.matrix, pairs.positive, pairs.negative
        logits = matrix / self.temperature
        surprise = masked_logsumexp(logits, positive | negative)[:, None] - logits
        of_anchor = torch.where(positive, surprise, 0).sum(1) / positive.sum(1).clamp(min=1)
        return mean_where(of_anchor, positive.any(1))
