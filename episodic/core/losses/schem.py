"""Stochastic class-based hard example mining: triplets, and a classifier whose weights say which classes are near."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from episodic.core.functional.pairs import dot
from episodic.core.losses.loss import AbstractProxyLoss
from episodic.core.losses.triplet import Triplet


class SCHEM(AbstractProxyLoss):
    """The triplet loss, and a classifier whose weights say which classes are near each other. `trainer=schem` draws hard negatives
    from the near classes.

        mean over all triplets above 0 of  [d(a,p) - d(a,n) + margin]+   +  classifier_weight * mean over items of  CE(W x, y)

    for squared distances d of vectors of length 1. The rows of W, the signatures of the classes, tell `trainer=schem` which
    classes are hard for an anchor's (see `core.functional.batches.hard_negatives`), so that hard negatives are found without an
    index of all images. On other batches it is the same loss without the mining.

    Suh, Han, Kim, Lee: *Stochastic Class-Based Hard Example Mining for Deep Metric Learning*, CVPR 2019,
    https://openaccess.thecvf.com/content_CVPR_2019/html/Suh_Stochastic_Class-Based_Hard_Example_Mining_for_Deep_Metric_Learning_CVPR_2019_paper.html.

    **Departures:** the authors published no code, and we do not know the paper's constants: the margin and the weight are those
    of a public re-implementation. Embeddings go into the classifier with their length.

    **Arguments:** `dim`: of the embeddings. `n_classes`: training classes. `label_swap`: see `AbstractProxyLoss`.

    >>> import torch
    >>> loss = SCHEM(dim=2, n_classes=2)
    >>> _ = torch.nn.init.eye_(loss.signatures)
    >>> loss(torch.tensor([[3.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), torch.tensor([0, 1, 1])).detach()
    tensor(0.3200)
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        margin: float = 0.2,
        classifier_weight: float = 1.0,
        label_swap: nn.Module | None = None,
    ):
        super().__init__(n_classes, label_swap)
        self.dim = dim
        if classifier_weight < 0:
            raise ValueError(f"classifier_weight must be at least 0, got {classifier_weight}")
        self.triplet = Triplet(margin, "all")
        self.classifier_weight = classifier_weight
        self.signatures = nn.Parameter(torch.randn(n_classes, dim) / dim**0.5)

    def of_classes(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        by_class = cross_entropy(dot(embeddings, self.signatures), labels, reduction="sum") / max(len(labels), 1)
        return self.triplet(embeddings, labels) + self.classifier_weight * by_class
