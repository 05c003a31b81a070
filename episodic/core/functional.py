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


def squared_distances(x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
    """Squared Euclidean distances by one matrix product, `|x|^2 - 2 x.y + |y|^2`, clamped at 0; computed in float32."""
    x, y = x.float(), y.float()
    cross = x @ y.mT
    return (x.square().sum(-1)[..., None] - 2 * cross + y.square().sum(-1)[..., None, :]).clamp(min=0)


def cosine_similarities(x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
    """Cosine of every pair, in float32; a zero vector has cosine 0 with everything."""
    normalize = torch.nn.functional.normalize
    return normalize(x.float(), dim=-1) @ normalize(y.float(), dim=-1).mT
