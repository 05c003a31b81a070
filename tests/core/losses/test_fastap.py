import pytest
import torch
from pytorch_metric_learning.losses import FastAPLoss
from sklearn.metrics import average_precision_score

from episodic.core.losses.fastap import FastAP
from episodic.core.losses.loss import Pairs
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws


@pytest.mark.parametrize("settings", [{}, {"n_bins": 1}, {"n_bins": 86}])
def test_laws(settings):
    check_pair_loss_laws(lambda: FastAP(**settings))


def test_four_vectors_by_hand():
    assert FastAP()(FOUR, FOUR_LABELS).item() == pytest.approx(0.3125)
    assert FastAP(n_bins=4)(FOUR, FOUR_LABELS).item() == pytest.approx(0.2916667, abs=1e-7)


@pytest.mark.parametrize("n_bins", [1, 4, 10, 27, 86])
def test_equals_pytorch_metric_learning(n_bins):
    check_equal(FastAP(n_bins), FastAPLoss(n_bins), *batch())
    embeddings, labels = batch(classes=9, per_class=1)
    check_equal(FastAP(n_bins), FastAPLoss(n_bins), embeddings, labels.clamp(min=6))


def test_is_average_precision_where_no_two_distances_share_a_bin():
    generator = torch.Generator().manual_seed(0)
    places = torch.stack([torch.randperm(41, generator=generator)[:15] for _ in range(8)])
    positive = torch.rand(8, 15, generator=generator) < 0.3
    positive[:, 0] = True
    expected = [
        average_precision_score(is_positive.numpy(), -place.numpy())
        for is_positive, place in zip(positive, places, strict=True)
    ]
    found = FastAP(n_bins=40).of_pairs(Pairs(places.double() / 10, positive, ~positive))
    assert found.item() == pytest.approx(1 - sum(expected) / 8)


def test_best_and_worst_ranking():
    positive = torch.tensor([[True] * 3 + [False] * 200])
    distances = torch.cat([torch.linspace(0.1, 0.9, 3), torch.linspace(2.1, 3.9, 200)]).double()[None]
    loss = FastAP()
    assert loss.of_pairs(Pairs(distances, positive, ~positive)).item() == pytest.approx(0, abs=1e-12)
    assert loss.of_pairs(Pairs(4 - distances, positive, ~positive)).item() > 0.95


def test_gradient_is_that_of_the_value():
    generator = torch.Generator().manual_seed(0)
    distances = (
        torch.randint(10, (4, 9), generator=generator) + 0.1 + 0.8 * torch.rand(4, 9, generator=generator)
    ) * 0.4
    positive = torch.arange(9) % 3 == torch.arange(4)[:, None] % 3
    loss = FastAP()
    assert torch.autograd.gradcheck(
        lambda x: loss.of_pairs(Pairs(x, positive, ~positive)), distances.double().requires_grad_()
    )


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        FastAP(n_bins=0)
