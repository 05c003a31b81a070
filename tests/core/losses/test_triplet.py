from functools import partial
from math import exp, log, sqrt

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch.utils._python_dispatch import TorchDispatchMode

from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.snr import SNR
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.pairs import References, masks, squared_euclidean, unit
from episodic.core.losses import triplet
from episodic.core.losses.triplet import Triplet, active_counts
from tests.core.losses.laws import (
    FOUR,
    FOUR_LABELS,
    batch,
    check_equal,
    check_loss_laws,
    check_pair_loss_laws,
    value_and_gradient,
)

plain = partial(Triplet, distance=Euclidean())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"triplets": "hard", "smooth": True},
        {"triplets": "all"},
        {"triplets": "all", "smooth": True},
        {"triplets": "all", "distance": SNR(), "normalize": False},
    ],
)
def test_laws(settings):
    check_pair_loss_laws(lambda: Triplet(**settings))


@pytest.mark.parametrize(
    "settings",
    [{"triplets": "soft_hard"}, {"triplets": "distance_weighted", "dim": 16, "margin": 1.0}, {"rho": 0.4}],
)
def test_laws_of_random_triplets(settings):
    check_loss_laws(lambda: Triplet(**settings), random=True)


def test_four_vectors_by_hand():
    def value(**settings):
        return Triplet(**settings)(FOUR, FOUR_LABELS).item()

    assert value(triplets="all", distance=Euclidean(), margin=0.05) == pytest.approx(0.5096458, abs=1e-7)
    assert value(triplets="all", distance=Euclidean(), margin=0.2) == pytest.approx(0.6596458, abs=1e-7)
    assert value(triplets="all", margin=0.2) == pytest.approx(1.0213672, abs=1e-7)
    assert value(triplets="hard", distance=Euclidean(), margin=0.2) == pytest.approx(0.4447343, abs=1e-7)
    # Semi-hard: only of (2, 3) no negative is farther; the farthest, 0, is as far as the positive.
    assert value() == pytest.approx(0.2 / 4, abs=1e-12)
    near = sqrt(2 - sqrt(3))
    gaps = [
        1 - sqrt(2),
        1 - 2,
        1 - near,
        1 - sqrt(3),
        sqrt(2) - sqrt(2),
        sqrt(2) - near,
        sqrt(2) - 2,
        sqrt(2) - sqrt(3),
    ]
    smooth = sum(log(1 + exp(gap)) for gap in gaps) / 8
    assert value(triplets="all", distance=Euclidean(), smooth=True) == pytest.approx(smooth, abs=1e-12)


@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0, 3.0])
@pytest.mark.parametrize(("distance", "power"), [(Euclidean(), 1), (SquaredEuclidean(), 2)])
def test_all_equals_pytorch_metric_learning(margin, distance, power):
    theirs = LpDistance(power=power)
    ours = Triplet(margin, "all", distance=distance)
    check_equal(ours, TripletMarginLoss(margin, distance=theirs), *batch())
    embeddings, _ = batch(seed=1)
    check_equal(ours, TripletMarginLoss(margin, distance=theirs), embeddings, torch.arange(20).square() % 7)


def test_smooth_equals_pytorch_metric_learning():
    check_equal(plain(triplets="all", smooth=True), TripletMarginLoss(0.0, smooth_loss=True), *batch())


@pytest.mark.parametrize("smooth", [False, True])
def test_hard_equals_pytorch_metric_learning(smooth):
    theirs = TripletMarginLoss(0.0 if smooth else 0.2, smooth_loss=smooth, reducer=MeanReducer())
    miner = BatchHardMiner()
    check_equal(plain(triplets="hard", smooth=smooth), lambda x, y: theirs(x, y, miner(x, y)), *batch())


def loop(embeddings, labels, margin, references, reference_labels, choose):
    """The list of hinges of an explicit loop over triplets, for those that `choose` takes of an anchor and a positive."""
    d = squared_euclidean(unit(embeddings), unit(references))
    for a, of in enumerate(labels):
        away = [d[a, n] for n in range(len(references)) if reference_labels[n] != of]
        for p in range(len(references)):
            if reference_labels[p] == of and not (references is embeddings and a == p):
                yield from ((d[a, p] - far + margin).relu() for far in choose(d[a, p], away))


def test_all_equals_a_loop_with_other_references():
    embeddings, labels = batch(classes=3, per_class=3)
    references, reference_labels = batch(classes=4, per_class=3, seed=1)

    def looped(x, y):
        each = torch.stack(list(loop(x, y, 0.2, references, reference_labels, lambda near, away: away)))
        return each.sum() / (each > 0).sum()

    ours = Triplet(0.2, "all")
    check_equal(lambda x, y: ours(x, y, References(references, reference_labels)), looped, embeddings, labels)


def test_semi_hard_equals_a_loop():
    def next_farther(near, away):
        farther = [far for far in away if far > near]
        return [min(farther) if farther else max(away)]

    def looped(x, y):
        return torch.stack(list(loop(x, y, 0.5, x, y, next_farther))).mean()

    check_equal(Triplet(0.5), looped, *batch(classes=3))


def test_counts_of_active_triplets_on_whole_numbers():
    places = torch.tensor([0.0, 2, 5, 1, 3, 4, 9, 6])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    distances = (places[:, None] - places).abs()
    positive, negative = masks(labels, labels, torch.arange(8))
    active = distances[:, :, None] + 1 > distances[:, None]  # never where both are equal
    active &= positive[:, :, None] & negative[:, None]
    as_positive, as_negative = active_counts(distances, positive, negative, 1.0)
    assert (as_positive == active.sum(2)).all()
    assert (as_negative == active.sum(1)).all()


def test_smooth_in_parts_is_the_whole(monkeypatch):
    embeddings, labels = batch(classes=2, per_class=7)
    loss = plain(triplets="all", smooth=True)
    expected = value_and_gradient(loss, embeddings, labels)
    monkeypatch.setattr(triplet, "LARGEST", 2 * 14 * 14 + 1)
    torch.testing.assert_close(value_and_gradient(loss, embeddings, labels), expected)


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor had."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return out


@pytest.mark.parametrize("settings", [{"triplets": "all"}, {}, {"triplets": "distance_weighted", "dim": 16}])
def test_no_tensor_is_larger_than_a_matrix(settings):
    embeddings, labels = batch(classes=32, per_class=4)
    with Largest() as largest:
        value_and_gradient(Triplet(**settings), embeddings, labels)
    assert largest.numbers <= 128 * (128 + 1)


def test_rho_pushes_positives_apart():
    """With two of each class only one other can be drawn."""
    embeddings, labels = batch(per_class=2)
    positive, _ = masks(labels, labels, torch.arange(10))

    def pushed(x, y):
        return (1.5 - squared_euclidean(unit(x), unit(x))[positive]).relu().mean()

    check_equal(Triplet(1.5, rho=1.0), pushed, embeddings, labels)


@pytest.mark.usefixtures("unchecked")
def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match=r"triplets must be one of all, hard, semi_hard, .*, got 'easy'"):
        Triplet(triplets="easy")
    with pytest.raises(ValueError, match="distance_weighted triplets need dim"):
        Triplet(triplets="distance_weighted")


def test_smooth_triplets_have_no_margin():
    assert Triplet().without_effect == {}
    smooth = Triplet(smooth=True, margin=0.2)
    assert smooth.without_effect.keys() == {"margin"}
    other = Triplet(smooth=True, margin=5.0)
    check_equal(smooth, other, *batch())
