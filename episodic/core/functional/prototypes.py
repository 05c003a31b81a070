"""Pure maths that several learners share. All functions accept any leading axes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def one_hot(labels: Int64[Tensor, "*axes item"], n_way: int) -> Float[Tensor, "*axes item way"]:
    """Labels as float32 indicator rows. Labels must lie in `0..n_way-1`; others give a zero row."""
    return (labels[..., None] == torch.arange(n_way, device=labels.device)).float()


def prototypes(
    support: Float[Tensor, "*axes support dim"], support_y: Int64[Tensor, "*axes support"], n_way: int
) -> Float[Tensor, "*axes way dim"]:
    """Mean embedding of each class. A class without support has the zero vector as its prototype."""
    member = one_hot(support_y, n_way).to(support.dtype)
    sums = member.mT @ support
    return sums / member.sum(-2)[..., None].clamp(min=1)
