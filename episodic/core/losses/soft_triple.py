"""SoftTriple: a softmax over classes, each with several centers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from episodic.core.functional.pairs import cosine, unit
from episodic.core.losses.loss import AbstractProxyLoss

SMALLEST = 1e-5  # added to squared distances of centers, whose root has no slope at 0


class SoftTriple(AbstractProxyLoss):
    """Learns several centers for each class, for classes whose images look different from each other. An item is classified by the
    centers that are nearest to it.

        S_c = sum over k of softmax_k(x . w_ck / gamma) x . w_ck
        mean over items of  CE(scale (S - margin onehot(y)), y)
        + tau / (C K (K - 1)) * sum over classes c and pairs k < l of its centers of  ||w_ck - w_cl||

    for x and w of length 1. The second line draws the centers of a class together, so that it keeps as many as it needs: `tau / 2`
    times their mean distance. Qian, Shang, Sun, Hu, Li, Jin: *SoftTriple Loss: Deep Metric Learning Without Triplet Sampling*,
    ICCV 2019, https://arxiv.org/abs/1909.05235.

    **Arguments:** `dim`: of the embeddings. `n_classes`: training classes. `n_centers`: K, 2 in the paper where classes are many
    and small. `scale`: lambda in the paper; its authors advise 10 where the loss diverges. `gamma`: 0 would be the nearest center,
    infinity their mean. `margin`: delta in the paper. `tau`: see above. `label_swap`: see `AbstractProxyLoss`; a class is
    exchanged with all its centers.

    >>> import torch
    >>> loss = SoftTriple(dim=2, n_classes=2, n_centers=1)
    >>> _ = torch.nn.init.eye_(loss.centers.data[:, 0])
    >>> loss(torch.tensor([[3.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1])).detach()
    tensor(0.0111)
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        n_centers: int = 10,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.2,
        label_swap: nn.Module | None = None,
    ):
        super().__init__(n_classes, label_swap)
        self.dim = dim
        if n_centers < 1:
            raise ValueError(f"n_centers must be at least 1, got {n_centers}")
        if scale <= 0 or gamma <= 0:
            raise ValueError(f"scale and gamma must be positive, got {scale} and {gamma}")
        if tau < 0:
            raise ValueError(f"tau must not be negative, got {tau}")
        self.n_centers = n_centers
        self.scale = scale
        self.gamma = gamma
        self.margin = margin
        self.tau = tau
        if n_centers == 1:
            reason = "a class has one center only (loss.soft_triple.n_centers=1)"
            self.without_effect |= {"gamma": reason, "tau": reason}
        bound = (
            n_classes * n_centers
        ) ** -0.5  # as in the authors' code; the length changes only the effective learning rate
        self.centers = nn.Parameter(torch.empty(n_classes, n_centers, dim).uniform_(-bound, bound))

    def of_classes(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        cosines = cosine(embeddings, self.centers.flatten(0, 1)).unflatten(1, (self.n_classes, self.n_centers))
        similarities = ((cosines / self.gamma).softmax(-1) * cosines).sum(-1)
        logits = self.scale * (similarities - self.margin * one_hot(labels, self.n_classes))
        loss = cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
        return loss + self.tau * self._center_distance() if self.tau else loss

    def _center_distance(self) -> Float[Tensor, ""]:
        """Half the mean distance of two centers of a class; 0 for a single center."""
        centers = unit(self.centers)
        k = self.n_centers
        first, second = torch.triu_indices(k, k, offset=1, device=centers.device)
        cosines = (centers @ centers.mT)[:, first, second]
        return (2 + SMALLEST - 2 * cosines).sqrt().sum() / (self.n_classes * max(k * (k - 1), 1))
