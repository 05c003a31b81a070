import pytest
import torch
from pytorch_metric_learning.losses import MarginLoss

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.snr import SNR
from episodic.core.functional.pairs import References, euclidean, masks, unit
from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.margin import Margin
from episodic.core.losses.miners import distance_weighted
from tests.core.losses.laws import (
    FOUR,
    FOUR_LABELS,
    batch,
    check_equal,
    check_loss_laws,
    check_pair_loss_laws,
    value_and_gradient,
)


@pytest.mark.parametrize(
    "settings",
    [
        {"triplets": "all"},
        {"triplets": "hard"},
        {"triplets": "all", "learn_beta": True, "nu": 0.1},
        {"triplets": "all", "distance": SNR(), "normalize": False},
    ],
)
def test_laws(settings):
    check_pair_loss_laws(lambda: Margin(**settings))


def test_laws_with_a_boundary_a_class():
    check_loss_laws(lambda: Margin(triplets="all", learn_beta=True, n_classes=5, nu=0.1), renamable=False)


def test_laws_of_random_triplets():
    check_loss_laws(lambda: Margin(dim=16), random=True)
    check_loss_laws(lambda: Margin(dim=16, rho=0.4, learn_beta=True), random=True)


def test_four_vectors_by_hand():
    assert Margin(triplets="all")(FOUR, FOUR_LABELS).item() == pytest.approx(0.5702630, abs=1e-7)


@pytest.mark.parametrize("settings", [(0.2, 1.2), (0.05, 1.0), (0.5, 0.6)])
def test_equals_pytorch_metric_learning(settings):
    alpha, beta = settings
    check_equal(Margin(alpha, beta, "all"), MarginLoss(alpha, beta=beta), *batch())
    embeddings, _ = batch(seed=1)
    check_equal(Margin(alpha, beta, "all"), MarginLoss(alpha, beta=beta), embeddings, torch.arange(20).square() % 7)


def test_learned_boundaries_equal_pytorch_metric_learning():
    embeddings, labels = batch()
    ours = Margin(triplets="all", learn_beta=True, n_classes=5, nu=0.3).double()
    theirs = MarginLoss(learn_beta=True, num_classes=5, nu=0.3).double()
    with torch.no_grad():
        for loss in (ours, theirs):
            loss.beta.copy_(torch.linspace(0.7, 1.6, 5))
    check_equal(ours, theirs, embeddings, labels)
    assert (ours.beta.grad != 0).all()
    torch.testing.assert_close(ours.beta.grad, theirs.beta.grad)


def test_one_learned_boundary_equals_pytorch_metric_learning():
    ours, theirs = Margin(triplets="all", learn_beta=True).double(), MarginLoss(learn_beta=True).double()
    check_equal(ours, theirs, *batch())
    torch.testing.assert_close(ours.beta.grad, theirs.beta.grad)


def test_boundaries_are_those_of_the_anchors_with_other_references():
    embeddings, labels = batch(classes=2, per_class=3)
    references, reference_labels = batch(classes=4, per_class=2, seed=1)
    loss = Margin(triplets="all", learn_beta=True, n_classes=4).double()
    with torch.no_grad():
        loss.beta.copy_(torch.tensor([0.9, 1.3, 7.0, 7.0]))

    def looped(x, y):
        d = euclidean(unit(x), unit(references))
        parts = []
        for a, of in enumerate(y):
            beta = loss.beta[of].item()
            same = [r for r in range(len(references)) if reference_labels[r] == of]
            other = [r for r in range(len(references)) if reference_labels[r] != of]
            for p in same:
                for n in other:
                    parts += [(0.2 + d[a, p] - beta).relu(), (0.2 - d[a, n] + beta).relu()]
        parts = torch.stack(parts)
        return parts.sum() / (parts > 0).sum()

    check_equal(lambda x, y: loss(x, y, References(references, reference_labels)), looped, embeddings, labels)


def test_distance_weighted_equals_a_loop_over_its_triplets():
    embeddings, labels = batch()
    given = masks(labels, labels, torch.arange(20))

    def ours(x, y):
        torch.manual_seed(3)
        return Margin(learn_beta=False, dim=16)(x, y)

    def looped(x, y):
        d = euclidean(unit(x), unit(x))
        torch.manual_seed(3)
        triplets = distance_weighted(d.detach(), *given, dim=16)
        parts = []
        for a, p in triplets.valid.nonzero().tolist():
            parts += [(0.2 + d[a, p] - 1.2).relu(), (0.2 - d[a, triplets.negative[a, p]] + 1.2).relu()]
        parts = torch.stack(parts)
        return parts.sum() / (parts > 0).sum()

    check_equal(ours, looped, embeddings, labels)


def test_without_a_gap_it_is_the_contrastive_loss_but_for_the_reduction():
    embeddings, labels = batch()  # 3 positives and 16 negatives an anchor
    x, b = unit(embeddings), 1.3
    positive, negative = masks(labels, labels, torch.arange(20))
    far, near = (positive & (euclidean(x, x) > b)).sum(), (negative & (euclidean(x, x) < b)).sum()
    pull, push = Contrastive(b, 0.0)(embeddings, labels), Contrastive(9.0, b)(embeddings, labels)
    expected = (16 * far * pull + 3 * near * push) / (16 * far + 3 * near)
    torch.testing.assert_close(Margin(0.0, b, "all")(embeddings, labels), expected)


def test_rho_pushes_positives_apart():
    """With two of each class only one other can be drawn, and no pair is pulled together."""
    embeddings, labels = batch(per_class=2)
    positive, _ = masks(labels, labels, torch.arange(10))

    def pushed(x, y):
        each = (1.4 - euclidean(unit(x), unit(x))[positive]).relu()
        return each.sum() / (each > 0).sum()

    check_equal(Margin(learn_beta=False, rho=1.0, dim=16), pushed, embeddings, labels)


def test_nothing_active_leaves_boundaries_alone():
    loss = Margin(beta=1.0, triplets="all", learn_beta=True, nu=0.1).double()
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    value, gradient = value_and_gradient(loss, apart, FOUR_LABELS)
    assert value == 0
    assert (gradient == 0).all()
    assert (loss.beta.grad == 0).all()


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="nu weighs learned boundaries, so it must be 0 without learn_beta"):
        Margin(learn_beta=False, nu=0.1, dim=16)
    with pytest.raises(ValueError, match="distance_weighted triplets need dim"):
        Margin()


def test_what_only_learned_boundaries_use():
    fixed = Margin(triplets="all", learn_beta=False)
    assert fixed.without_effect.keys() == {"lr_multiplier", "n_classes", "nu"}
    check_equal(fixed, Margin(triplets="all", learn_beta=False, n_classes=5), *batch())
    assert not list(fixed.parameters())
    assert Margin(triplets="all", learn_beta=True).without_effect == {}


def test_cosines_need_no_normalization_for_distance_weighted_triplets():
    raw = Margin(distance=Cosine(), normalize=False, dim=16)
    assert "normalize" in raw.without_effect

    def seeded(loss):
        def value(x, y):
            torch.manual_seed(0)
            return loss(x, y)

        return value

    check_equal(seeded(raw), seeded(Margin(distance=Cosine(), dim=16)), *batch())
