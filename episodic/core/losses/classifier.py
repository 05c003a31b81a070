"""Classifier: the cross-entropy of a linear layer over the training classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from episodic.core.functional.pairs import cosine, upcast_both
from episodic.core.losses.loss import AbstractProxyLoss
from episodic.episodes.arguments import flag


class Classifier(AbstractProxyLoss):
    """A linear layer over the training classes, with the cross-entropy of its logits. It is plain supervised pre-training.

        mean over items of  CE(W x + b, y),    or with a `scale`  CE(scale cos(x, w_c), y)

    With `learned_scale` the scale is a number that is trained too (Gidaris, Komodakis: *Dynamic Few-Shot Visual Learning without
    Forgetting*, CVPR 2018, https://arxiv.org/abs/1804.09458).

    Chen, Liu, Kira, Wang, Huang: *A Closer Look at Few-shot Classification*, ICLR 2019, https://arxiv.org/abs/1904.04232: the
    training stage of their Baseline, and with a `scale` of their Baseline++. The second is Proxy-NCA in its variant
    `probability` with half the scale, and the normalized softmax of temperature `1 / scale` (Zhai, Wu, BMVC 2019).

    **Arguments:** `dim`: of the embeddings. `n_classes`: training classes. `label_smoothing`: PyTorch's. `scale`: of cosines; None
    for a linear layer with a bias. The authors' code has 2 up to 200 classes and 10 above. `learned_scale`: whether it is only the
    start of a learned one; false by default. `label_swap`: see `AbstractProxyLoss`;
    on average it smooths labels too.

    **Departures**: the authors' code gives each class of Baseline++ a learned factor on its cosines, which the paper does not
    have. Here there is none.

    >>> import torch
    >>> loss = Classifier(dim=2, n_classes=2, scale=10.0)
    >>> _ = torch.nn.init.eye_(loss.linear.weight)
    >>> loss(torch.tensor([[3.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1])).detach().round(decimals=3)
    tensor(0.0630)
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        label_smoothing: float = 0.0,
        scale: float | None = None,
        learned_scale: bool = False,
        label_swap: nn.Module | None = None,
    ):
        super().__init__(n_classes, label_swap)
        self.dim = dim
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in 0..1, got {label_smoothing}")
        if scale is not None and scale <= 0:
            raise ValueError(f"scale must be positive, or None for a linear layer, got {scale}")
        self.label_smoothing = label_smoothing
        self.learned_scale = flag("learned_scale", learned_scale)
        if scale is None:
            self.without_effect = {"learned_scale": "a linear layer has no scale (scale=null)"}
        self.scale = nn.Parameter(torch.tensor(float(scale))) if scale is not None and learned_scale else scale
        self.linear = nn.Linear(dim, n_classes, bias=scale is None)

    def of_classes(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        if self.scale is None:
            x, weight = upcast_both(embeddings, self.linear.weight)
            logits = linear(x, weight, self.linear.bias.to(x.dtype))
        else:
            logits = self.scale * cosine(embeddings, self.linear.weight)
        loss = cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
        return loss / max(len(labels), 1)
