"""Proxy-NCA: each item should be near the proxy of its class and far from those of other classes."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from episodic.core.functional.pairs import cosine, masked_logsumexp, masks
from episodic.core.losses.loss import AbstractProxyLoss
from episodic.episodes.arguments import choice

Variant = Literal["original", "probability"]


class ProxyNCA(AbstractProxyLoss):
    """Learns one vector for each class, its proxy p_c, and compares items with proxies instead of with each other. It is
    neighborhood components analysis with proxies as the neighbors.

        original:     mean over items of  scale ||x - p_y||^2 + log sum over c != y of exp(-scale ||x - p_c||^2)
        probability:  the same, the sum over all c

    for x and p of length 1. Movshovitz-Attias, Toshev, Leung, Ioffe, Singh: *No Fuss Distance Metric Learning using Proxies*,
    ICCV 2017, https://arxiv.org/abs/1703.07464, has the `original` variant, which is unbounded below: an item that is nearest
    to its own proxy is still pulled at full strength. `probability` is what later code calls Proxy-NCA: the cross-entropy of
    cosines times `2 scale`, as of `classifier` with that scale.

    **Arguments:** `dim`: of the embeddings. `n_classes`: training classes. `variant`: see above. `scale`: the paper has the
    product of the lengths of x and p, without a number; public re-implementations have 9, or 8. `label_swap`: see
    `AbstractProxyLoss`.

    **Departures**: proxies begin with random directions and a length near 1; the paper does not say.

    >>> import torch
    >>> loss = ProxyNCA(dim=2, n_classes=2, variant="probability")
    >>> _ = torch.nn.init.eye_(loss.proxies)
    >>> loss(torch.tensor([[3.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1])).detach()
    tensor(0.0135)
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        variant: Variant = "original",
        scale: float = 9.0,
        label_swap: nn.Module | None = None,
    ):
        super().__init__(n_classes, label_swap)
        self.dim = dim
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        if variant == "original" and n_classes < 2:
            raise ValueError(f"the original variant compares with other classes and needs at least 2, got {n_classes}")
        self.variant = choice("variant", variant, Variant)
        self.scale = scale
        self.proxies = nn.Parameter(torch.randn(n_classes, dim) / dim**0.5)

    def of_classes(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        # ||x - p||^2 = 2 - 2 cos, and the constants of the two terms cancel.
        logits = 2 * self.scale * cosine(embeddings, self.proxies)
        if self.variant == "probability":
            loss = cross_entropy(logits, labels, reduction="sum")
        else:
            _, others = masks(labels, torch.arange(self.n_classes, device=labels.device))
            loss = (masked_logsumexp(logits, others) - logits.gather(1, labels[:, None])[:, 0]).sum()
        return loss / max(len(labels), 1)
