import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances
from torch.autograd import gradcheck, gradgradcheck

from episodic.core.functional.pairs import (
    cosine,
    dot,
    euclidean,
    masked_logsumexp,
    masks,
    mean_where,
    squared_euclidean,
    unit,
    upcast,
    upcast_both,
)


def vectors(n, seed=0):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("compare", [cosine, dot, euclidean, squared_euclidean])
def test_a_tensor_with_itself_has_the_gradient_of_two_equal_ones(compare):
    weights = torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).fill_diagonal_(0)
    one, other = vectors(5).requires_grad_(), vectors(5).requires_grad_()
    (weights * compare(one, one)).sum().backward()
    (weights * compare(other, other.clone())).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_products_can_be_differentiated_twice():
    x = vectors(4).requires_grad_()
    assert gradcheck(lambda x: dot(x, x), x)
    assert gradgradcheck(lambda x: dot(x, x), x)


def test_points_that_coincide_have_no_gradient():
    x = torch.ones(3, 4, requires_grad=True)
    euclidean(x, x).sum().backward()
    assert (x.grad == 0).all()


def test_who_is_positive_and_negative_is_told_by_place():
    positive, negative = masks(torch.tensor([3, 5]), torch.tensor([5, 3, 3]), torch.tensor([2, 0]))
    assert positive.tolist() == [[False, True, False], [False, False, False]]
    assert negative.tolist() == [[True, False, False], [False, True, True]]
    assert masks(torch.tensor([3]), torch.tensor([3, 3]))[0].all()


def test_sums_over_what_a_mask_leaves():
    x = torch.tensor([[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    plus_one = masked_logsumexp(x, mask, one=True)
    torch.testing.assert_close(plus_one, torch.tensor([1 + 1 + torch.e**2, 1]).log())
    torch.testing.assert_close(masked_logsumexp(x, mask)[0], torch.tensor(1 + torch.e**2).log())
    assert mean_where(x, mask) == 1
    nothing = mean_where(x, mask & False)
    (plus_one.sum() + masked_logsumexp(x, mask).sum() + nothing).backward()
    assert nothing == 0
    assert x.grad.isfinite().all()
    assert (x.grad[1] == 0).all()


def test_matrices_of_episodes_equal_scikit_learns():
    x, y = torch.randn(2, 7, 5), torch.randn(2, 4, 5)
    for e in range(2):
        a, b = x[e].numpy(), y[e].numpy()
        np.testing.assert_allclose(squared_euclidean(x, y)[e], euclidean_distances(a, b) ** 2, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(cosine(x, y)[e], cosine_similarity(a, b), rtol=1e-4, atol=1e-6)


def test_distance_to_itself_is_never_negative():
    x = torch.randn(50, 1600) * 30
    assert (squared_euclidean(x, x).diagonal() >= 0).all()


def test_a_zero_vector_has_cosine_zero():
    assert torch.equal(cosine(torch.zeros(1, 3), torch.ones(2, 3)), torch.zeros(1, 2))


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_a_gradient_too_large_for_half_precision_is_its_largest_number(dtype):
    x = torch.ones(3, dtype=dtype, requires_grad=True)
    (upcast(x) * torch.tensor([3.4e38, -3.4e38, 0.5])).sum().backward()
    largest = torch.finfo(dtype).max
    assert x.grad.tolist() == [largest, -largest, 0.5]


def test_both_are_in_the_larger_type_and_one_stays_one():
    half, single, double = (torch.zeros(1, dtype=dtype) for dtype in (torch.float16, torch.float32, torch.float64))
    for x, y, dtype in ((half, single, torch.float32), (half, double, torch.float64), (double, single, torch.float64)):
        assert [each.dtype for each in upcast_both(x, y)] == [dtype, dtype]
    first, second = upcast_both(half, half)
    assert first is second
    assert upcast_both(single, double)[1] is double


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_a_dead_vector_stays_dead_and_learns_nothing(dtype):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    unit(x)[:, 0].sum().backward()
    assert unit(x)[0].tolist() == [0, 0]
    assert x.grad[0].tolist() == [0, 0]
    assert x.grad[1].tolist() == pytest.approx([0.128, -0.096], rel=1e-2)


@pytest.mark.parametrize("compare", [cosine, dot, euclidean, squared_euclidean])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("other", [torch.float16, torch.float32, torch.float64])
def test_any_two_types_compare_with_finite_gradients(compare, dtype, other):
    lengths = torch.tensor([0.0, 1e-4, 1.0, 1.0, 6e4])[:, None]
    x, y = ((lengths * vectors(5).sign()).to(each).requires_grad_() for each in (dtype, other))
    matrix = compare(x, y)
    torch.testing.assert_close(matrix, compare(x.double(), y.double()).to(matrix.dtype), rtol=1e-4, atol=3e3)
    matrix.sum().backward()
    assert matrix.isfinite().all()
    for each in (x, y):
        assert each.grad.isfinite().all()
        assert each.grad.dtype == each.dtype
