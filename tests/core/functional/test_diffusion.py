import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from episodic.core.functional import diffusion
from episodic.core.functional.diffusion import (
    certainties,
    class_weights,
    diffuse,
    neighbor_graph,
    normalized,
    pseudo_labels,
)


def path(weights):
    """A path graph with these edge weights, normalized."""
    n = len(weights) + 1
    w = np.zeros((n, n))
    for i, weight in enumerate(weights):
        w[i, i + 1] = w[i + 1, i] = weight
    return normalized(csr_array(w))


def random_graph(n=30, seed=0):
    features = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return neighbor_graph(features, 4)


FOUR, ENDS = path([1, 1, 2]), np.array([0, -1, -1, 1])


def test_the_path_of_four_worked_out_by_hand():
    z, residual = diffuse(FOUR, ENDS, 2, alpha=0.5, iterations=4, tolerance=1e-12)
    expected = [[1.151515, 0.042855], [0.428550, 0.121212], [0.104973, 0.519589], [0.042855, 1.212121]]
    np.testing.assert_allclose(z, expected, atol=1e-6)
    assert residual < 1e-12
    np.testing.assert_allclose(z[:, 0] / z.sum(1), [0.964119, 0.779519, 0.168074, 0.034148], atol=1e-6)
    np.testing.assert_allclose(certainties(z), [0.776924, 0.238955, 0.346719, 0.785215], atol=1e-6)
    found = pseudo_labels(FOUR, ENDS, 2, alpha=0.5, iterations=4, tolerance=1e-12)
    assert found.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.weights, [1, 0.238955, 0.346719, 1], atol=1e-6)
    relative = pseudo_labels(FOUR, ENDS, 2, alpha=0.5, iterations=4, tolerance=1e-12, relative=True)
    np.testing.assert_allclose(relative.weights, [1, 0.238955 / 0.346719, 1, 1], atol=1e-5)


def test_conjugate_gradients_end_where_the_closed_form_is():
    graph, labels = random_graph(), np.full(30, -1)
    labels[[0, 3, 7, 20]] = [0, 1, 1, 3]
    z, residual = diffuse(graph, labels, 4, iterations=60, tolerance=1e-12)
    y = (labels[:, None] == np.arange(4)) / [1, 2, 1, 1]
    np.testing.assert_allclose(z, np.linalg.solve(np.eye(30) - 0.99 * graph.toarray(), y), atol=1e-10)
    assert (z[:, 2] == 0).all()
    assert residual < 1e-12
    half, _ = diffuse(graph.astype(np.float32), labels, 4, iterations=60)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, z, rtol=1e-3, atol=1e-4)


def test_a_class_does_not_win_by_having_more_labels():
    """On a path of 41 items, 9 of class 0 at one end and 1 of class 1 at the other: the border is in the middle between the two."""
    graph, labels = path([1] * 40), np.full(41, -1)
    labels[[*range(0, 9)]] = 0
    found = pseudo_labels(graph, np.where(np.arange(41) == 40, 1, labels), 2, iterations=200, tolerance=1e-12)
    border = int((found.labels == 0).sum())
    plain, _ = diffuse(graph, np.where(np.arange(41) == 40, 1, labels), 2, iterations=200, tolerance=1e-12)
    assert (plain[:, 0] * 9 > plain[:, 1]).sum() > border + 6  # where each label counts alike
    assert 20 <= border <= 26


def test_a_column_ends_at_its_own_tolerance():
    labels = np.full(30, -1)
    labels[[0, 9]] = [0, 1]
    for tolerance in (1e-1, 1e-3, 1e-5):
        graph = random_graph()
        z, residual = diffuse(graph, labels, 2, iterations=60, tolerance=tolerance)
        y = (labels[:, None] == np.arange(2)).astype(float)
        left = np.linalg.norm(y - (z - 0.99 * graph @ z), axis=0)
        assert residual == pytest.approx(left.max())
        assert tolerance / 100 < residual <= tolerance
    _, unfinished = diffuse(graph, labels, 2, iterations=3)
    assert unfinished > 1e-2


def test_twenty_iterations_reach_nineteen_edges():
    graph, labels = path([1] * 39), np.full(40, -1)
    labels[0] = 0
    z, residual = diffuse(graph, labels, 1, alpha=0.99, iterations=20)
    assert (z[:20] != 0).all()
    assert (z[20:] == 0).all()
    exact = np.linalg.solve(np.eye(40) - 0.99 * graph.toarray(), np.eye(40)[:, :1])
    assert np.abs(z - exact).max() == pytest.approx(0.588, abs=1e-3)
    assert residual > 1e-3


def test_columns_in_blocks_are_columns_alone(monkeypatch):
    labels = np.where(np.arange(30) % 3 == 0, np.arange(30) // 3, -1)
    whole, residual = diffuse(random_graph(), labels, 10)
    monkeypatch.setattr(diffusion, "COLUMNS", 3)
    parts, again = diffuse(random_graph(), labels, 10)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    assert again == pytest.approx(residual)


def test_cosines_to_the_power_of_gamma():
    """Cosines of 0.8, 0 and -0.6 from the first item; 0.6, 0 and 0.8 among the others. Lengths do not matter."""
    x = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], dtype=torch.float64)
    half = np.array([[0, 0.512, 0, 0], [0.512, 0, 0.216, 0], [0, 0.216, 0, 0.512], [0, 0, 0.512, 0]])
    degree = np.array([0.512, 0.728, 0.728, 0.512])
    found = neighbor_graph(x * torch.tensor([[3.0], [0.1], [1.0], [7.0]]), 3).toarray()
    np.testing.assert_allclose(found, half / np.sqrt(np.outer(degree, degree)), atol=1e-12)


def loop(features, neighbors, gamma):
    """The graph, item by item."""
    n = len(features)
    unit = [f / np.linalg.norm(f) for f in features]
    a = np.zeros((n, n))
    for i in range(n):
        cosines = {j: unit[i] @ unit[j] for j in range(n) if j != i}
        for j in sorted(cosines, key=cosines.get, reverse=True)[:neighbors]:
            a[i, j] = max(cosines[j], 0) ** gamma
    w = a + a.T
    degree = w.sum(1)
    degree[degree == 0] = 1
    return w / np.sqrt(np.outer(degree, degree))


@pytest.mark.parametrize("rows", [512, 7])
def test_the_graph_is_that_of_an_explicit_loop(monkeypatch, rows):
    monkeypatch.setattr(diffusion, "ROWS", rows)
    features = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for neighbors, gamma in ((1, 3.0), (5, 2.0), (100, 1.0)):
        found = neighbor_graph(features, neighbors, gamma)
        np.testing.assert_allclose(found.toarray(), loop(features.numpy(), neighbors, gamma), atol=1e-12)
    assert neighbor_graph(features.float(), 5).dtype == np.float32


def test_copies_of_an_item_are_its_neighbors_and_the_item_itself_is_not():
    """Three copies each of four items: with two neighbors, the other two copies, whichever is found first."""
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    graph = neighbor_graph(features, 2).toarray()
    same = np.arange(12)[:, None] % 4 == np.arange(12) % 4
    np.testing.assert_allclose(graph, np.where(same & ~np.eye(12, dtype=bool), 0.5, 0), atol=1e-6)


def test_an_item_without_edges_stays_alone():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [0.0, 0.0]])
    graph = neighbor_graph(features, 3)
    assert np.isfinite(graph.data).all()
    assert (graph.toarray()[2:] == 0).all()
    found = pseudo_labels(graph, np.array([0, -1, -1, -1]), 2)
    assert found.labels.tolist() == [0, 0, -1, -1]
    assert found.weights.tolist() == [1, 1, 0, 0]
    assert found.class_weights.tolist() == [0.5, 0]  # nothing is of the second class
    again = pseudo_labels(graph, np.array([-1, -1, -1, 1]), 2, relative=True)
    assert again.labels.tolist() == [-1, -1, -1, 1]
    assert again.weights.tolist() == [0, 0, 0, 1]


def test_labels_that_are_given_are_kept():
    graph, labels = path([5, 5]), np.array([0, 1, 0])
    found = pseudo_labels(graph, labels, 2)
    assert found.labels.tolist() == [0, 1, 0]
    assert found.weights.tolist() == [1, 1, 1]


def test_certainty_is_1_for_one_class_and_0_for_all_alike():
    z = np.array([[0, 3.0, 0], [2, 2, 2], [0, 0, 0], [-1, 0.5, 0.5]])
    np.testing.assert_allclose(certainties(z), [1, 0, 0, 1 - np.log(2) / np.log(3)], atol=1e-12)


def test_class_weights():
    np.testing.assert_allclose(class_weights(np.array([0, 0, 0, 1]), 2), [2 / 3, 2])
    np.testing.assert_allclose(class_weights(np.array([0, -1, 2, 2, -1]), 3), [1, 0, 0.5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neighbor_graph(torch.ones(3, 2), 0), "neighbors must be at least 1"),
        (lambda: neighbor_graph(torch.ones(3, 2), 1, 0.0), "gamma positive"),
        (lambda: diffuse(FOUR, ENDS, 2, alpha=1.0), "below 1"),
        (lambda: pseudo_labels(FOUR, ENDS, 1), "at least 2 classes, got 1"),
    ],
)
def test_settings_that_make_no_sense(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_half_precision_are_compared_in_float32(dtype):
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    graph = neighbor_graph(features, neighbors=3)
    assert graph.dtype == np.float32
    assert np.array_equal(graph.toarray(), neighbor_graph(features.float(), neighbors=3).toarray())
