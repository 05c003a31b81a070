"""Class means, and labels as indicators. All functions accept any leading axes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import upcast


def one_hot(labels: Int64[Tensor, "*axes item"], n_way: int) -> Float[Tensor, "*axes item way"]:
    """Labels as rows of 0 and 1 in float32. Labels must lie in `0..n_way-1`; others give a row of 0.

    >>> one_hot(torch.tensor([1, 0, -1]), 2)
    tensor([[0., 1.],
            [1., 0.],
            [0., 0.]])
    """
    return (labels[..., None] == torch.arange(n_way, device=labels.device)).float()


def prototypes(
    support: Float[Tensor, "*axes support dim"], support_y: Int64[Tensor, "*axes support"], n_way: int
) -> Float[Tensor, "*axes way dim"]:
    """The mean embedding of each class, at least in float32. A class without support has the zero vector as its prototype.

    >>> prototypes(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]), n_way=2)
    tensor([[2., 0.],
            [0., 5.]])
    """
    support = upcast(support)
    member = one_hot(support_y, n_way).to(support.dtype)
    sums = member.mT @ support
    return sums / member.sum(-2)[..., None].clamp(min=1)
