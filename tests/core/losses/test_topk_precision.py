import pytest
import torch

from episodic.core.distances.snr import SNR
from episodic.core.losses.loss import Pairs
from episodic.core.losses.topk_precision import TopKPrecision
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws


@pytest.mark.parametrize("settings", [{}, {"k": 1, "margin": 0.2}, {"distance": SNR(), "normalize": False}])
def test_laws(settings):
    check_pair_loss_laws(lambda: TopKPrecision(**settings))


@pytest.mark.parametrize(("k", "expected"), [(1, 0), (2, 0.25), (3, 0.5), (4, 0.25), (5, 0), (6, 0), (60, 0)])
def test_six_references_by_hand(k, expected):
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]], dtype=torch.float64)
    positive = torch.tensor([[1, 0, 0, 1, 1, 0]]).bool()
    assert TopKPrecision(k).of_pairs(Pairs(similarity, positive, ~positive)).item() == pytest.approx(
        expected, abs=1e-12
    )


def test_four_vectors_by_hand():
    assert TopKPrecision(k=1)(FOUR, FOUR_LABELS).item() == pytest.approx(0.3330127, abs=1e-7)
    assert TopKPrecision(k=2)(FOUR, FOUR_LABELS).item() == pytest.approx(0.0125)


def slow(x, y, k, margin):
    """As pairs: the lowest negatives of the list against the highest positives outside of it."""
    x = x / x.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        if not any(y[j] == y[i] for j in others):
            continue
        value = {j: x[i] @ x[j] + margin * (y[j] != y[i]) for j in others}
        ranked = sorted(others, key=lambda j: -value[j].item())
        inside, outside = ranked[:k], ranked[k:]
        n_positive = sum((y[j] == y[i]).item() for j in others)
        missing = min(n_positive, k) - sum((y[j] == y[i]).item() for j in inside)
        wrong = [j for j in inside if y[j] != y[i]][::-1][:missing]
        right = [j for j in outside if y[j] == y[i]][:missing]
        losses.append(sum((value[j] for j in wrong), 0 * x.sum()) - sum(value[j] for j in right))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.4])
def test_equals_swapping_pairs_at_the_border(k, margin):
    check_equal(TopKPrecision(k, margin), lambda x, y: slow(x, y, k, margin), *batch())
    embeddings, _ = batch()
    labels = torch.tensor([0] * 8 + [1] * 3 + [2, 2, 3, 4, 5, 6, 6, 7, 7])  # classes of all sizes
    check_equal(TopKPrecision(k, margin), lambda x, y: slow(x, y, k, margin), embeddings, labels)


def test_a_list_of_one_is_a_hinge_of_the_nearest_two():
    def hinge(x, y):
        x = x / x.norm(dim=1, keepdim=True)
        similarity, same = x @ x.T, y[:, None] == y
        nearest = similarity.masked_fill(~same, -9).fill_diagonal_(-9).amax(1)
        return (similarity.masked_fill(same, -9).amax(1) + 0.1 - nearest).relu().mean()

    check_equal(TopKPrecision(k=1, margin=0.1), hinge, *batch())


@pytest.mark.parametrize("k", [1, 3, 6])
def test_bounds_the_negatives_that_should_not_be_listed(k):
    """The paper's theorem: each costs the margin at least."""
    generator = torch.Generator().manual_seed(k)
    loss = TopKPrecision(k, margin=0.3)
    counted = 0
    for _ in range(100):
        similarity = torch.rand(1, 12, generator=generator, dtype=torch.float64)
        positive = torch.rand(1, 12, generator=generator) < 0.3
        listed = ~positive[0, similarity[0].topk(k).indices]
        too_many = listed.sum().item() - max(0, k - positive.sum().item())
        value = loss.of_pairs(Pairs(similarity, positive, ~positive)).item()
        assert value >= 0.3 * too_many - 1e-12
        counted += too_many
    assert counted > 20


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        TopKPrecision(k=0)
