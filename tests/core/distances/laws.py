"""Laws that every distance obeys; a new distance's test calls `check_distance_laws`."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from episodic.core.distances.distance import AbstractDistance


def vectors(*shape: int, seed=0, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check_distance_laws(distance: AbstractDistance, of_pair, *, symmetric: bool = True) -> None:
    """`of_pair(x, y)` is the formula for two vectors."""
    x, y = vectors(5, 6), vectors(7, 6, seed=1)
    matrix = distance.matrix(x, y)
    looped = torch.stack([torch.stack([of_pair(a, b) for b in y]) for a in x])
    torch.testing.assert_close(matrix, looped)
    torch.testing.assert_close(distance.matrix(y, x).mT, matrix) if symmetric else check_order_matters(distance, x, y)
    check_directions(distance, x, y)
    check_euclidean(distance)
    check_points(distance, x)
    check_itself(distance, x)
    # Any leading axes, each compared on its own.
    many, others = vectors(2, 3, 5, 6), vectors(2, 3, 7, 6, seed=1)
    torch.testing.assert_close(distance.matrix(many, others)[1, 2], distance.matrix(many[1, 2], others[1, 2]))
    # At least float32, also for half precision.
    half = distance.matrix(x.bfloat16(), y.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, distance.matrix(x.bfloat16().float(), y.bfloat16().float()))
    check_extremes(distance)
    assert gradcheck(distance.matrix, (x.requires_grad_(), y.requires_grad_()))
    # Length makes no difference where the distance says so.
    stretched = torch.allclose(distance.matrix(3 * x, 0.5 * y), distance.matrix(x, y))
    assert stretched == distance.ignores_length
    # And where all vectors grow together, it is a power of the factor.
    torch.testing.assert_close(distance.matrix(3 * x, 3 * y), 3**distance.degree * distance.matrix(x, y))
    assert distance == type(distance)()
    assert hash(distance) == hash(type(distance)())
    assert repr(distance) == f"{type(distance).__name__}()"


def check_extremes(distance: AbstractDistance) -> None:
    """Values and gradients are finite for dead, short, long, equal and constant vectors of any type."""
    lengths = torch.tensor([0, 0, 1e-6, 1e-3, 1, 1, 6e4, 6e4], dtype=torch.float64)[:, None]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for each in (lengths * vectors(8, 6).sign(), lengths.expand(-1, 6), vectors(1, 6).expand(8, -1)):
            x, y = each.to(dtype).requires_grad_(), each.to(dtype).requires_grad_()
            for matrix in (distance.matrix(x, x), distance.matrix(x, y), distance.matrix(x, y.detach().double())):
                matrix.sum().backward()
                assert all(
                    found.isfinite().all() for found in (matrix, x.grad, y.grad if y.grad is not None else x.grad)
                )
                x.grad = y.grad = None


def check_order_matters(distance: AbstractDistance, x: Tensor, y: Tensor) -> None:
    assert not torch.allclose(distance.matrix(y, x).mT, distance.matrix(x, y))


def check_directions(distance: AbstractDistance, x: Tensor, y: Tensor) -> None:
    """`flip` undoes itself and reverses the order; distances are smallest, similarities largest, for the same pair."""
    matrix = distance.matrix(x, y)
    torch.testing.assert_close(distance.flip(distance.flip(matrix)), matrix)
    assert torch.equal(distance.flip(matrix).argsort(-1, descending=True), matrix.argsort(-1))
    near = distance.similarities(x, y)
    torch.testing.assert_close(near, matrix if distance.larger_is_closer else distance.flip(matrix))
    # A vector is nearest to itself among vectors of one length.
    unit = torch.nn.functional.normalize(x - x.mean(-1, keepdim=True), dim=-1)
    assert distance.similarities(unit, unit).argmax(-1).tolist() == list(range(len(x)))
    if not distance.has_distances:
        with pytest.raises(
            ValueError, match=rf"{type(distance).__name__} is a similarity that cannot be read as a dist"
        ):
            distance.distances(x, y)
        return
    far = distance.distances(x, y)
    torch.testing.assert_close(far, distance.flip(matrix) if distance.larger_is_closer else matrix)
    assert (far >= 0).all()
    assert distance.distances(unit, unit).argmin(-1).tolist() == list(range(len(x)))


def check_euclidean(distance: AbstractDistance) -> None:
    """`to_euclidean` gives what `torch.cdist` gives for vectors of length 1, or None."""
    if not distance.has_distances:
        assert distance.to_euclidean(torch.ones(1)) is None
        return
    x, y = (torch.nn.functional.normalize(vectors(n, 6, seed=n), dim=-1) for n in (5, 7))
    found = distance.to_euclidean(distance.distances(x, y))
    assert found is None or torch.allclose(found, torch.cdist(x, y))


def check_points(distance: AbstractDistance, x: Tensor) -> None:
    """The Euclidean distances of `points` rank pairs as the distance does. There may be none."""
    found = distance.points(x)
    if found is not None:
        ranks = torch.cdist(found, found).argsort(-1)
        assert torch.equal(ranks, distance.similarities(x, x).argsort(-1, descending=True))


def check_itself(distance: AbstractDistance, x: Tensor) -> None:
    """A tensor against itself has the values and, off the diagonal, the gradient of two equal ones."""
    weights = vectors(len(x), len(x), seed=2).fill_diagonal_(0)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    values = distance.matrix(one, one), distance.matrix(other, other.clone())
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)  # a root near 0 is rounded
    for matrix in values:
        (weights * matrix).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)
