import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.semi_supervised import LabelPropagation, LabelSpreading

from episodic.core.functional.graph import (
    clamped,
    gaussian_affinities,
    keep_nearest,
    length_scales,
    normalized,
    propagate,
    without_self_loops,
)


def random_weights(n=9, axes=(2, 3), dtype=torch.float64):
    """Symmetric weights in (0, 1] with self-loops of 1."""
    x = torch.randn(*axes, n, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return (-0.3 * (x[..., :, None, :] - x[..., None, :, :]).square().sum(-1)).exp()


def two_blobs():
    x = np.random.default_rng(0).normal(size=(20, 2))
    x[10:] += 2
    y = np.full(20, -1)
    y[[0, 1, 10]] = 0, 0, 1
    labels = torch.from_numpy(np.stack([y == 0, y == 1], axis=1)).double()
    return x, y, labels


def spread_by_scikit_learn(x, y, alpha):
    peer = LabelSpreading(kernel="rbf", gamma=0.4, alpha=alpha, max_iter=100_000, tol=1e-12).fit(x, y)
    return torch.from_numpy(peer.label_distributions_)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9, 0.99])
def test_equals_scikit_learns_label_spreading_without_self_loops_only(alpha):
    x, y, labels = two_blobs()
    weights = torch.from_numpy(rbf_kernel(x, gamma=0.4))
    ours = propagate(normalized(without_self_loops(weights)), labels, alpha)
    theirs = spread_by_scikit_learn(x, y, alpha)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), theirs, atol=1e-9, rtol=0)
    looped = propagate(normalized(weights), labels, alpha)
    assert not torch.allclose(looped / looped.sum(-1, keepdim=True), theirs, atol=1e-3)


def test_equals_scikit_learns_label_spreading_from_features_in_float32():
    x, y, labels = two_blobs()
    weights = gaussian_affinities(torch.from_numpy(x).float(), gamma=0.4)
    ours = propagate(normalized(without_self_loops(weights)), labels.float(), 0.5)
    theirs = spread_by_scikit_learn(x, y, 0.5).float()
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), theirs, atol=1e-5, rtol=0)


def test_affinities_equal_scikit_learns():
    x = torch.randn(2, 7, 5)
    ours = gaussian_affinities(x, gamma=0.2)
    for e in range(2):
        np.testing.assert_allclose(ours[e], rbf_kernel(x[e].numpy(), gamma=0.2), rtol=1e-4, atol=1e-6)


def test_hand_computed_example_on_a_plane():
    x = torch.tensor([[0.0, 0.0], [2.0, 2.0], [1.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    weights = gaussian_affinities(x, gamma=0.25)
    expected = [0.13534, 0.77880, 0.28650]
    torch.testing.assert_close(weights[[0, 0, 1], [1, 2, 2]], torch.tensor(expected), atol=1e-5, rtol=0)
    with_loops = propagate(normalized(weights), labels, 0.5)[2]
    torch.testing.assert_close(with_loops, torch.tensor([0.39472, 0.21125]), atol=1e-5, rtol=0)
    without = propagate(normalized(without_self_loops(weights)), labels, 0.5)[2]
    torch.testing.assert_close(without, torch.tensor([0.54385, 0.33407]), atol=1e-5, rtol=0)


def test_hand_computed_example_on_a_line_where_few_neighbors_mend_what_alpha_near_one_breaks():
    weights = gaussian_affinities(torch.tensor([[0.0], [3.0], [1.0], [2.5]]), gamma=0.5)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    half = propagate(normalized(weights), labels, 0.5)
    expected = [[1.509871, 0.0384], [0.0384, 1.439784], [0.334061, 0.110111], [0.064561, 0.393365]]
    torch.testing.assert_close(half, torch.tensor(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        propagate(normalized(weights), labels, 0.99).softmax(-1)[2, 0].item(), 0.266597, atol=1e-4, rtol=0
    )
    two = propagate(normalized(keep_nearest(weights, 2)), labels, 0.99)[2:]
    torch.testing.assert_close(two, torch.tensor([[49.339961, 0.0], [0.0, 49.467068]]), atol=1e-3, rtol=0)


def test_closed_form_is_the_sum_over_all_walks():
    s = normalized(keep_nearest(random_weights(), 4))
    y = torch.rand(2, 3, 9, 5, generator=torch.Generator().manual_seed(1), dtype=s.dtype)
    walk, total = y, y
    for _ in range(600):
        walk = 0.9 * s @ walk
        total = total + walk
    torch.testing.assert_close(propagate(s, y, 0.9), total)


def test_alpha_zero_leaves_the_labels():
    y = torch.rand(2, 3, 9, 5, dtype=torch.float64)
    assert torch.equal(propagate(normalized(random_weights()), y, 0.0), y)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, math.nan])
def test_alpha_is_below_one(alpha):
    with pytest.raises(ValueError, match="alpha must be at least 0 and below 1"):
        propagate(torch.eye(2), torch.eye(2), alpha)


def test_union_of_the_nearest_equals_an_explicit_loop():
    weights = random_weights()
    kept = keep_nearest(weights, 3)
    longest = 0
    for a in range(2):
        for b in range(3):
            w = weights[a, b].tolist()
            nearest = [sorted(range(9), key=lambda j, row=row: -row[j])[:3] for row in w]
            for i in range(9):
                assert i in nearest[i]  # the self-loop is one of the three
                for j in range(9):
                    stays = j in nearest[i] or i in nearest[j]
                    assert kept[a, b, i, j].item() == (w[i][j] if stays else 0)
                longest = max(longest, int((kept[a, b, i] > 0).sum()))
    assert longest > 3
    assert torch.equal(kept, kept.mT)


def test_keeping_more_neighbors_than_there_are_keeps_all():
    weights = random_weights()
    assert torch.equal(keep_nearest(weights, 20), weights)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        keep_nearest(weights, 0)


def test_the_gradient_goes_through_the_weights_that_are_kept():
    weights = random_weights().requires_grad_()
    kept = keep_nearest(weights, 3)
    kept.sum().backward()
    assert torch.equal(weights.grad, (kept > 0).to(weights.dtype))


def test_normalization_equals_the_product_with_diagonal_matrices():
    weights = without_self_loops(random_weights())
    root = torch.diag_embed(weights.sum(-1) ** -0.5)
    torch.testing.assert_close(normalized(weights), root @ weights @ root)
    largest = torch.linalg.eigvalsh(normalized(weights))[..., -1]
    torch.testing.assert_close(largest, torch.ones_like(largest))


def test_normalization_does_not_mind_the_unit_of_the_weights():
    weights = random_weights(dtype=torch.float32)
    torch.testing.assert_close(normalized(1e-20 * weights), normalized(weights))


def test_an_item_without_an_edge_neither_gives_nor_takes_and_has_no_nan_in_its_gradient():
    weights = without_self_loops(random_weights(dtype=torch.float32))
    weights[..., 0, :] = weights[..., :, 0] = 0
    weights.requires_grad_()
    y = torch.ones(2, 3, 9, 2)
    y[..., 1:, 1] = 0  # the label of the second class is known to the lonely item alone
    spread = propagate(normalized(weights), y, 0.99)
    assert torch.equal(spread[..., 0, :], torch.ones(2, 3, 2))
    assert torch.equal(spread[..., 1:, 1], torch.zeros(2, 3, 8))
    spread.sum().backward()
    assert weights.grad.isfinite().all()
    empty = torch.zeros(4, 4, requires_grad=True)
    normalized(empty).square().sum().backward()
    assert torch.equal(empty.grad, torch.zeros(4, 4))


def test_gradients_are_finite_however_far_items_are_from_each_other():
    # Without self-loops the weights of a far item go through every size of float32 down to 0.
    for distance in torch.linspace(0, 15, 61).tolist():
        x = torch.tensor([[0.0], [0.3], [distance]], requires_grad=True)
        s = normalized(without_self_loops(gaussian_affinities(x, gamma=1.0)))
        propagate(s, torch.eye(3), 0.9).square().sum().backward()
        assert x.grad.isfinite().all(), distance


def test_derivatives_are_those_of_finite_differences():
    weights = random_weights(n=5, axes=(2,))
    y = torch.rand(2, 5, 3, dtype=torch.float64)
    # Away from the diagonal of 1: an entry is then among the largest three or not, whatever the small step.
    assert torch.autograd.gradcheck(
        lambda w, y: propagate(normalized(keep_nearest(w, 3)), y, 0.9), (weights.requires_grad_(), y.requires_grad_())
    )


PATH = torch.tensor([[0.0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 2], [0, 0, 2, 0]], dtype=torch.float64)


def test_path_graph_by_hand():
    ends = torch.zeros(4, 2, dtype=torch.float64)
    ends[0, 0] = ends[3, 1] = 1
    half = torch.tensor([[1.151515, 0.042855], [0.428550, 0.121212], [0.104973, 0.519589], [0.042855, 1.212121]])
    torch.testing.assert_close(propagate(normalized(PATH), ends, 0.5).float(), half, atol=1e-5, rtol=0)
    most = propagate(normalized(PATH), ends, 0.99)  # every item the label of the heavier end, even the other end
    share = torch.tensor([0.444834, 0.426170, 0.407013, 0.397533])
    torch.testing.assert_close((most / most.sum(-1, keepdim=True))[:, 0].float(), share, atol=1e-5, rtol=0)
    order = torch.tensor([0, 3, 1, 2])  # labeled items first
    held = propagate(clamped(PATH[order][:, order], 2), ends[order], 1 - 1e-10)
    harmonic = torch.tensor([[1, 0], [0, 1], [0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(held, harmonic, atol=1e-8, rtol=0)


@pytest.mark.parametrize("loops", [False, True])
def test_clamped_equals_scikit_learns_label_propagation_and_the_harmonic_function(loops):
    x, y, labels = two_blobs()
    order = np.argsort(y == -1, kind="stable")  # labeled items first
    x, y, labels = x[order], y[order], labels[order]
    peer = LabelPropagation(kernel="rbf", gamma=0.4, max_iter=100_000, tol=1e-12).fit(x, y)
    weights = torch.from_numpy(rbf_kernel(x, gamma=0.4))
    weights = weights if loops else without_self_loops(weights)
    found = propagate(clamped(weights, 3), labels, 1 - 1e-10)
    torch.testing.assert_close(found, torch.from_numpy(peer.label_distributions_), atol=1e-7, rtol=0)
    p = weights / weights.sum(1, keepdim=True)
    harmonic = (torch.eye(17) - p[3:, 3:]).inverse() @ p[3:, :3] @ labels[:3]
    torch.testing.assert_close(found[3:], harmonic, atol=1e-7, rtol=0)
    assert torch.equal(found[:3], labels[:3])


def test_a_clamped_graph_with_an_item_without_an_edge_has_finite_gradients():
    weights = without_self_loops(random_weights(dtype=torch.float32))
    weights[..., 8, :] = weights[..., :, 8] = 0
    weights.requires_grad_()
    spread = propagate(clamped(weights, 2), torch.eye(9)[:, :2].expand(2, 3, -1, -1), 0.99)
    assert torch.equal(spread[..., 8, :], torch.zeros(2, 3, 2))
    spread.sum().backward()
    assert weights.grad.isfinite().all()


def test_length_scales_are_distances_to_a_neighbor():
    x = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    squared = (x[:, :, None] - x[:, None]).square().sum(-1)
    for k in (1, 3):
        found = length_scales(squared, k + 1)
        for e in range(2):
            for i in range(7):
                others = sorted(math.dist(x[e, i], x[e, j]) for j in range(7) if j != i)
                assert found[e, i].item() == pytest.approx(others[k - 1], rel=1e-5)
    assert torch.equal(length_scales(squared, 50), squared.amax(-1).sqrt())


def test_items_that_coincide_have_a_length_scale_too():
    squared = torch.tensor([[0.0, 0, 0, 4], [0, 0, 0, 0]], requires_grad=True)
    scales = length_scales(squared, 3)
    torch.testing.assert_close(scales, torch.tensor([0.01, 1e-6]))
    scales.sum().backward()
    assert squared.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    weights = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)  # an item without an edge
    for compute in (
        normalized,
        lambda w: clamped(w, 1),
        lambda w: propagate(normalized(w), torch.eye(3, dtype=dtype), 0.5),
    ):
        x = weights.clone().requires_grad_()
        found = compute(x)
        found.sum().backward()
        torch.testing.assert_close(found, compute(weights.float()).to(torch.float32))
        assert x.grad.isfinite().all()
    assert length_scales(0 * weights, k=2).tolist() == pytest.approx([1e-6] * 3)
