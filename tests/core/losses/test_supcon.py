import math

import pytest
import torch
from pytorch_metric_learning.distances import SNRDistance
from pytorch_metric_learning.losses import SupConLoss

from episodic.core.distances.dot import Dot
from episodic.core.distances.snr import SNR
from episodic.core.losses.supcon import SupCon
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.5}, {"distance": SNR(), "normalize": False}, {"distance": Dot()}]
)
def test_laws(settings):
    check_pair_loss_laws(lambda: SupCon(**settings))


def test_four_vectors_by_hand():
    def of(positive, *negatives):
        return math.log(1 + sum(math.exp(s - positive) for s in negatives))

    root = math.sqrt(3) / 2
    expected = (of(0.5, 0, -1) + of(0.5, root, -0.5) + of(0, 0, root) + of(0, -1, -0.5)) / 4
    assert SupCon(temperature=1)(FOUR, FOUR_LABELS).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_equals_pytorch_metric_learning(temperature):
    check_equal(SupCon(temperature), SupConLoss(temperature), *batch())
    embeddings, labels = batch(classes=9, per_class=1)
    check_equal(SupCon(temperature), SupConLoss(temperature), embeddings, labels.clamp(min=6))
    theirs = SupConLoss(temperature, distance=SNRDistance(normalize_embeddings=False))
    check_equal(SupCon(temperature, distance=SNR(), normalize=False), theirs, *batch())


def test_equals_cross_entropy_with_one_positive():
    """Two of each class: the other one is the class to be told, among all but oneself."""

    def cross_entropy(x, y):
        x = x / x.norm(dim=1, keepdim=True)
        off = torch.eye(len(x), dtype=torch.bool)
        target = ((y[:, None] == y) & ~off).int().argmax(1)
        return torch.nn.functional.cross_entropy((x @ x.T / 0.1).masked_fill(off, -torch.inf), target)

    check_equal(SupCon(), cross_entropy, *batch(classes=8, per_class=2))


def test_copies_cannot_be_told_apart():
    embeddings, labels = batch(classes=2, per_class=4)
    assert SupCon()(embeddings[:1].expand(8, -1), labels).item() == pytest.approx(math.log(7))


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        SupCon(temperature=0)
