import pytest
import torch

from episodic.core.losses.upper_bound import UpperBound
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_loss_laws, value_and_gradient


@pytest.mark.parametrize("n_classes", [5, 40])
def test_laws(n_classes):
    check_loss_laws(lambda: UpperBound(16, n_classes), renamable=False, signed=True)


def test_four_vectors_by_hand():
    loss = UpperBound(2, 2)
    assert loss(FOUR, FOUR_LABELS).item() == pytest.approx(0.1580480, abs=1e-6)  # where d = 0 it is 1e-6
    each = [loss(FOUR[i : i + 1], FOUR_LABELS[i : i + 1]).item() for i in range(4)]
    assert each == pytest.approx([-0.4714045, 0.8274540, -0.4714045, 0.7475469], abs=2e-6)


def test_equals_the_sums_of_the_paper():
    loss = UpperBound(16, 20)

    def slow(x, y):
        x = x / x.norm(dim=1, keepdim=True)
        total = 0.0
        for i in range(len(x)):
            for c, centroid in enumerate(loss.centroids.double()):
                total = total + (1 if c == y[i] else -1 / (3 * 19)) * (x[i] - centroid).norm()
        return total / len(x)

    check_equal(loss, slow, *batch())


@pytest.mark.parametrize("near", [False, True])
def test_bounds_the_sum_over_all_triplets_wherever_centroids_lie(near):
    classes, n = 3, 4
    factor = 3 * (classes - 1) * (n - 1) * n
    slack = []
    for seed in range(50):
        embeddings, labels = batch(classes, n, dim=3, seed=seed)
        x = embeddings / embeddings.norm(dim=1, keepdim=True)
        loss = UpperBound(3, classes).double()
        loss.centroids = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if near:
            loss.centroids = torch.stack([x[labels == c].mean(0) for c in range(classes)])
        distance, same = torch.cdist(x, x), labels[:, None] == labels
        triplets = (same & ~torch.eye(len(x), dtype=torch.bool))[:, :, None] & ~same[:, None]
        total = (distance[:, :, None] - distance[:, None])[triplets].sum()
        slack.append(factor * len(x) * loss(embeddings, labels) - total)
    assert min(slack) >= 0


def test_bound_is_reached():
    """Classes that are points opposite each other, with their centroids on them."""
    loss = UpperBound(2, 2)
    loss.centroids = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    total = -2.0 * 6 * 2 * 3  # each of 6 anchors has 2 positives at 0 and 3 negatives at 2
    assert 3 * 2 * 3 * 6 * loss(loss.centroids[labels], labels).item() == pytest.approx(total, abs=1e-3)


def test_centroids_are_fixed_and_saved():
    loss = UpperBound(8, 30)
    assert not list(loss.parameters())
    assert list(loss.state_dict()) == ["centroids"]
    torch.testing.assert_close(loss.centroids.norm(dim=1), torch.ones(30))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert (UpperBound(8, 30).centroids == loss.centroids).all()
    assert (torch.get_rng_state() == before).all()


def test_centroids_on_axes_where_they_fit():
    assert (UpperBound(6, 4).centroids == torch.eye(6)[:4]).all()
    assert (UpperBound(4, 4).centroids == torch.eye(4)).all()


@pytest.mark.parametrize(("dim", "n_classes"), [(2, 8), (16, 40)])
def test_more_centroids_lie_farther_apart_than_random_points(dim, n_classes):
    def nearest(x):
        return (x @ x.T).fill_diagonal_(-1).amax(1).mean()

    generator = torch.Generator().manual_seed(1)
    random = [torch.randn(n_classes, dim, generator=generator) for _ in range(20)]
    better_than = sorted(nearest(x / x.norm(dim=1, keepdim=True)) for x in random)[3]
    assert nearest(UpperBound(dim, n_classes).centroids) < better_than


def test_length_of_embeddings_does_not_matter():
    embeddings, labels = batch()
    loss = UpperBound(16, 5)
    value, _ = value_and_gradient(loss, embeddings, labels)
    torch.testing.assert_close(loss(7 * embeddings, labels), value)


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="at least 2 dimensions and 2 classes are needed, got 1 and 3"):
        UpperBound(1, 3)
    with pytest.raises(ValueError, match="got 16 and 1"):
        UpperBound(16, 1)
