"""Comparisons of every anchor with every reference. Losses of pairs, miners and memories use them.

Matrices are `[anchor, reference]`, after the leading axes of the embeddings, such as episodes. The references are the batch itself,
a memory of past embeddings, or the support of an episode. A pair of an item with itself is neither positive nor negative.

Types of numbers, here and in all formulas, distances and losses of `core`: half precision is computed in float32. Where two tensors
have different types, both are computed in the larger one. The result has the type that it was computed in, and each gradient the
type of its own tensor. Embeddings of any float type give finite values and finite gradients, as long as their squares are float32
numbers.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

SMALLEST_SQUARE = 1e-12  # below it a distance has no slope
SMALLEST_LENGTH = 1e-12  # a shorter vector has no direction


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """The items that anchors are compared with. They may contain the anchors themselves.

    - `embeddings [R, D]` and their `labels [R]`.
    - `self_index [N]`: the number of the reference that is the anchor itself; None if no anchor is among the references.

    >>> References.batch(torch.zeros(2, 8), torch.tensor([3, 5])).self_index
    tensor([0, 1])
    """

    embeddings: Float[Tensor, "reference dim"]
    labels: Int64[Tensor, " reference"]
    self_index: Int64[Tensor, " anchor"] | None = None

    @staticmethod
    def batch(embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> References:
        """The anchors themselves."""
        return References(embeddings, labels, torch.arange(len(labels), device=labels.device))


def masks(
    labels: Int64[Tensor, " anchor"],
    reference_labels: Int64[Tensor, " reference"],
    self_index: Int64[Tensor, " anchor"] | None = None,
) -> tuple[Bool[Tensor, "anchor reference"], Bool[Tensor, "anchor reference"]]:
    """Two masks, `(positive, negative)`: the pairs of equal labels and the pairs of different labels.

    `self_index`: see `References`. An anchor is excluded from its own positives by this index, not by its distance, so a copy of an
    item is a positive of it.

    >>> positive, negative = masks(torch.tensor([3]), torch.tensor([3, 3, 5]), self_index=torch.tensor([0]))
    >>> positive, negative
    (tensor([[False,  True, False]]), tensor([[False, False,  True]]))
    """
    same = labels[:, None] == reference_labels
    if self_index is None:
        return same, ~same
    return same.scatter(1, self_index[:, None], False), ~same


class _Upcast(torch.autograd.Function):
    """`x.float()`, with a gradient that the type of `x` can hold."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return x.float()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        largest = torch.finfo(ctx.dtype).max
        return gradient.clamp(-largest, largest).to(ctx.dtype)


def upcast(x: Tensor) -> Tensor:
    """`x` in at least float32, since similarities are small differences of large sums.

    A gradient that is too large for the type of `x` becomes the largest number of that type. In float16 this happens to short
    vectors, since the gradient of a direction is one over the length. A gradient scaler does not see such an overflow.

    >>> upcast(torch.tensor([1.0], dtype=torch.float16)).dtype, upcast(torch.tensor([1.0], dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x if x.dtype in (torch.float32, torch.float64) else _Upcast.apply(x)


def upcast_both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors in one type: float64 if one of them is float64, else float32. One tensor given twice stays one tensor.

    >>> x, y = upcast_both(torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.float64))
    >>> x.dtype, y.dtype
    (torch.float64, torch.float64)
    """
    first = upcast(x)
    second = first if x is y else upcast(y)
    return (first, second) if first.dtype == second.dtype else (first.double(), second.double())


def unit(x: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
    """Vectors brought to length 1, at least in float32. A vector of 0 stays 0, and so does its gradient.

    A length below 1e-12 counts as 0, and so does one whose square is too large for the type.

    >>> unit(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    x = upcast(x)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(length < SMALLEST_LENGTH, torch.inf)


class _Gram(torch.autograd.Function):
    """`x @ x.mT` with a faster backward pass: one matrix product, where autograd takes one for each factor."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (gradient + gradient.mT) @ x


def dot(x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
    """Inner products `x . y` of all pairs. Where both are one tensor the backward pass is faster.

    >>> dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[11.,  2.]])
    """
    x, y = upcast_both(x, y)
    return _Gram.apply(x) if x is y else x @ y.mT


def cosine(x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
    """Cosines of all pairs. A zero vector has cosine 0 with everything.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0]]))
    tensor([[1., 0.]])
    """
    first = unit(x)
    return dot(first, first if x is y else unit(y))


def squared_euclidean(
    x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"], least: float = 0.0
) -> Float[Tensor, "*axes n m"]:
    """Squared distances `||x - y||^2` of all pairs, by one matrix product. None is below `least`.

    >>> squared_euclidean(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    x, y = upcast_both(x, y)
    squares = [z.square().sum(-1) for z in (x, y)]
    return (squares[0][..., None] - 2 * dot(x, y) + squares[1][..., None, :]).clamp(min=least)


def euclidean(x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
    """Distances `||x - y||` of all pairs. Where two points coincide there is no gradient.

    >>> euclidean(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    return squared_euclidean(x, y, SMALLEST_SQUARE).sqrt()


def masked_logsumexp(
    x: Float[Tensor, "anchor reference"], mask: Bool[Tensor, "anchor reference"], *, one: bool = False
) -> Float[Tensor, " anchor"]:
    """The logarithm of the sum of `exp(x)` where `mask` holds, in each row. With `one` the sum starts from 1, so that the
    result is 0 for an empty row. Without it an empty row has the most negative number there is, not minus infinity, whose
    gradient is NaN.

    >>> masked_logsumexp(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([0.6931])
    """
    x = upcast(x)
    x = x.masked_fill(~mask, torch.finfo(x.dtype).min)
    return torch.nn.functional.pad(x, (0, 1)).logsumexp(-1) if one else x.logsumexp(-1)


def mean_where(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of `x` where `mask` holds. It is 0, with a gradient of 0, if the mask holds nowhere.

    >>> mean_where(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return torch.where(mask, upcast(x), 0).sum() / mask.sum().clamp(min=1)
