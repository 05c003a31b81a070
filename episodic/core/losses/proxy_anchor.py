"""Proxy-Anchor: each proxy should be near the items of its class and far from all others."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from episodic.core.functional.pairs import cosine, masked_logsumexp, masks, mean_where
from episodic.core.losses.loss import AbstractProxyLoss


class ProxyAnchor(AbstractProxyLoss):
    """Learns one vector for each class, its proxy. The proxy is the anchor, and the items of the batch are its positives and
    negatives.

        mean over proxies with a positive of  log(1 + sum over positives of exp(-scale (s - margin)))
        + mean over all proxies of            log(1 + sum over negatives of exp(scale (s + margin)))

    for cosines s. Kim, Kim, Cho, Kwak: *Proxy Anchor Loss for Deep Metric Learning*, CVPR 2020, https://arxiv.org/abs/2003.13911.

    **Arguments:** `dim`: of the embeddings. `n_classes`: training classes. `margin`, `scale`: delta and alpha in the paper.
    `label_swap`: see `AbstractProxyLoss`.

    >>> import torch
    >>> loss = ProxyAnchor(dim=2, n_classes=2)
    >>> _ = torch.nn.init.eye_(loss.proxies)
    >>> loss(torch.tensor([[3.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1])).detach()
    tensor(12.8200)
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        margin: float = 0.1,
        scale: float = 32.0,
        label_swap: nn.Module | None = None,
    ):
        super().__init__(n_classes, label_swap)
        self.dim = dim
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.margin = margin
        self.scale = scale
        self.proxies = nn.Parameter(torch.empty(n_classes, dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def of_classes(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        cosines = cosine(self.proxies, embeddings)
        positive, negative = masks(torch.arange(self.n_classes, device=labels.device), labels)
        near = masked_logsumexp(-self.scale * (cosines - self.margin), positive, one=True)
        far = masked_logsumexp(self.scale * (cosines + self.margin), negative, one=True)
        return mean_where(near, positive.any(1)) + far.mean()
