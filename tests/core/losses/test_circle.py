import math

import pytest
import torch
from pytorch_metric_learning.losses import CircleLoss

from episodic.core.distances.snr import SNR
from episodic.core.losses.circle import Circle
from episodic.core.losses.loss import Pairs
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws

ONE_POSITIVE, ONE_NEGATIVE = torch.tensor([[True, False]]), torch.tensor([[False, True]])


@pytest.mark.parametrize(
    "settings", [{}, {"margin": 0.25, "gamma": 256.0}, {"distance": SNR(), "normalize": False, "gamma": 1.0}]
)
def test_laws(settings):
    check_pair_loss_laws(lambda: Circle(**settings))


def test_four_vectors_by_hand():
    assert Circle()(FOUR, FOUR_LABELS).item() == pytest.approx(60.9734741, abs=1e-6)
    assert Circle(margin=0.25, gamma=256)(FOUR, FOUR_LABELS).item() == pytest.approx(232.1732868, abs=1e-6)


@pytest.mark.parametrize(("margin", "gamma"), [(0.4, 80), (0.25, 256), (0.1, 2)])
def test_equals_pytorch_metric_learning(margin, gamma):
    check_equal(Circle(margin, gamma), CircleLoss(margin, gamma), *batch())
    embeddings, labels = batch(classes=9, per_class=1)
    labels = labels.clamp(min=6)  # two of nine anchors have no positive
    check_equal(Circle(margin, gamma), CircleLoss(margin, gamma), embeddings, labels)


def test_one_positive_and_one_negative_are_a_circle():
    similarity = torch.tensor([[0.8, 0.3]], dtype=torch.float64, requires_grad=True)
    loss = Circle(margin=0.25, gamma=64)
    value = loss.of_pairs(Pairs(similarity, ONE_POSITIVE, ONE_NEGATIVE))
    assert value.item() == pytest.approx(0.8658929, abs=1e-7)
    value.backward()
    of_positive, of_negative = similarity.grad[0]
    assert (of_positive / of_negative).item() == pytest.approx(-0.45 / 0.55)  # not of a weight that is differentiated
    radius = math.sqrt(2) * 0.25
    for angle in torch.linspace(0.0, 1.5, 7, dtype=torch.float64):
        on_it = torch.stack([1 - radius * angle.cos(), radius * angle.sin()])[None]
        assert loss.of_pairs(Pairs(on_it, ONE_POSITIVE, ONE_NEGATIVE)).item() == pytest.approx(math.log(2))


def test_pairs_beyond_their_optimum_do_not_learn():
    similarity = torch.tensor([[0.2, -0.5]], dtype=torch.float64, requires_grad=True)
    Circle(margin=0.4, gamma=2).of_pairs(Pairs(similarity, ONE_POSITIVE, ONE_NEGATIVE)).backward()
    assert similarity.grad[0, 0] < 0
    assert similarity.grad[0, 1] == 0


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="gamma must be above 0, got 0"):
        Circle(gamma=0)
