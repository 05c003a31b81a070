import itertools

import pytest
import torch
from pytorch_metric_learning.losses import RankedListLoss

from episodic.core.distances.snr import SNR
from episodic.core.functional.pairs import References
from episodic.core.losses.ranked_list import RankedList
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws, value_and_gradient


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"variant": "tpami", "positive_temperature": 2.0},
        {"detach_weights": False, "gallery_grad": True},
        {"distance": SNR(), "normalize": False, "temperature": 1.0},
    ],
)
def test_laws(settings):
    check_pair_loss_laws(lambda: RankedList(**settings))


def slow(x, y, alpha, margin, temperature, positive_temperature, factors, detach_weights, gallery_grad):
    """The paper's sums, query by query and pair by pair."""
    x = x / x.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(len(x)):
        for same, factor in zip((True, False), factors, strict=True):
            above = below = 0.0
            for j in range(len(x)):
                if j == i or (y[i] == y[j]).item() != same:
                    continue
                distance = (x[i] - (x[j] if gallery_grad else x[j].detach())).norm()
                violation = distance - (alpha - margin) if same else alpha - distance
                if violation > 0:
                    weight = ((positive_temperature if same else temperature) * violation).exp()
                    weight = weight.detach() if detach_weights else weight
                    above, below = above + weight * violation, below + weight
            total = total + factor * above / below if below else total
    return total / len(x)


@pytest.mark.parametrize(("detach_weights", "gallery_grad"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize(
    ("variant", "imbalance", "factors"),
    [("cvpr", None, (1, 1)), ("cvpr", 3.0, (1, 3)), ("tpami", None, (0.5, 0.5)), ("tpami", 0.2, (0.8, 0.2))],
)
def test_equals_the_sums_of_the_paper(detach_weights, gallery_grad, variant, imbalance, factors):
    loss = RankedList(1.3, 0.3, 5.0, 2.0, variant, imbalance, detach_weights, gallery_grad)
    embeddings, labels = batch(classes=4, per_class=3, dim=6)
    check_equal(
        loss, lambda x, y: slow(x, y, 1.3, 0.3, 5.0, 2.0, factors, detach_weights, gallery_grad), embeddings, labels
    )


def test_four_vectors_by_hand():
    assert RankedList()(FOUR, FOUR_LABELS).item() == pytest.approx(0.7482877, abs=1e-7)
    assert RankedList(variant="tpami")(FOUR, FOUR_LABELS).item() == pytest.approx(0.7482877 / 2, abs=1e-7)


def test_equals_pytorch_metric_learning():
    """Which lets gradients through the weights, and adds 1e-5 for each reference to the sum of weights."""
    settings = {"margin": 0.4, "alpha": 1.2, "imbalance": 0.3}
    ours = RankedList(**settings, variant="tpami", temperature=4.0, detach_weights=False, gallery_grad=True)
    embeddings, labels = batch()
    value, gradient = value_and_gradient(ours, embeddings, labels)
    wanted, by = value_and_gradient(RankedListLoss(**settings, Tn=4), embeddings, labels)
    torch.testing.assert_close(value, wanted, atol=0, rtol=1e-3)
    assert (gradient - by).norm() < 1e-3 * by.norm()


def test_a_high_temperature_leaves_the_hardest_negative():
    embeddings, labels = batch()
    x = torch.nn.functional.normalize(embeddings, dim=1)
    nearest = torch.cdist(x, x).masked_fill(labels[:, None] == labels, torch.inf).amin(1)
    loss = RankedList(margin=-5.0, temperature=1e5)  # no positive is beyond the inner sphere
    torch.testing.assert_close(loss(embeddings, labels), (1.2 - nearest).relu().mean())


def test_nothing_is_learned_of_what_is_well():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]], dtype=torch.float64)
    value, gradient = value_and_gradient(RankedList(), embeddings, FOUR_LABELS)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("gallery_grad", [False, True])
def test_references_learn_only_if_asked(gallery_grad):
    embeddings, labels = batch()
    references = embeddings.clone().requires_grad_()
    x = embeddings.clone().requires_grad_()
    RankedList(gallery_grad=gallery_grad)(x, labels, References(references, labels, torch.arange(20))).backward()
    assert x.grad.abs().sum() > 0
    assert (references.grad is not None) == gallery_grad


@pytest.mark.usefixtures("unchecked")
def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match=r"variant must be one of cvpr, tpami, got 'eccv'"):
        RankedList(variant="eccv")
    with pytest.raises(ValueError, match=r"at most 1 in the variant tpami, got 1\.5 in the variant tpami"):
        RankedList(variant="tpami", imbalance=1.5)


def test_equal_weights_have_no_gradient_to_detach():
    assert RankedList().without_effect == {}
    plain = RankedList(temperature=0.0)
    assert plain.without_effect.keys() == {"detach_weights"}
    check_equal(plain, RankedList(temperature=0.0, detach_weights=False), *batch())
