import math

import pytest
import torch
from pytorch_metric_learning.losses import SoftTripleLoss
from pytorch_metric_learning.regularizers import SparseCentersRegularizer
from torch import nn
from torch.nn.functional import cross_entropy

from episodic.core.functional.pairs import cosine
from episodic.core.losses.soft_triple import SoftTriple
from episodic.core.regularizers.sse import SSE
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_loss_laws


def test_laws():
    check_loss_laws(lambda: SoftTriple(16, 5, n_centers=3), renamable=False)


def test_four_vectors_by_hand():
    """Each item is one of the centers of its class."""
    loss = SoftTriple(2, 2, n_centers=2, tau=0.0)
    loss.centers = nn.Parameter(FOUR.view(2, 2, 2).clone())
    assert loss(FOUR, FOUR_LABELS).item() == pytest.approx(0.0415233, abs=1e-7)
    loss.tau = 1.0
    distances = 1 + math.sqrt(2)  # of the two centers of each class, one pair a class
    assert loss(FOUR, FOUR_LABELS).item() - 0.0415233 == pytest.approx(distances / 4, abs=1e-5)


@pytest.mark.parametrize("settings", [(10, 20.0, 0.1, 0.01), (3, 5.0, 0.5, 0.2)])
@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_equals_pytorch_metric_learning(settings, tau):
    n_centers, scale, gamma, margin = settings
    embeddings, labels = batch()
    ours = SoftTriple(16, 5, n_centers, scale, gamma, margin, tau).double()
    theirs = SoftTripleLoss(
        5,
        16,
        n_centers,
        scale,
        gamma,
        margin,
        weight_regularizer=SparseCentersRegularizer(5, n_centers) if tau else None,
        weight_reg_weight=tau,
    )
    theirs.fc.data = ours.centers.data.flatten(0, 1).T.clone()
    atol = 1e-5 if tau else 1e-9  # they add a smaller number under the root
    check_equal(ours, theirs, embeddings, labels, atol)
    torch.testing.assert_close(ours.centers.grad.flatten(0, 1), theirs.fc.grad.T, atol=atol, rtol=1e-5)


def test_regularizer_equals_the_sum_over_pairs_of_centers():
    loss = SoftTriple(16, 4, n_centers=3, tau=2.0).double()
    w = loss.centers.detach() / loss.centers.detach().norm(dim=-1, keepdim=True)
    expected = sum(
        (2 + 1e-5 - 2 * w[c, k] @ w[c, other]).sqrt() for c in range(4) for k in range(3) for other in range(k)
    )
    found = loss(torch.zeros(0, 16, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
    torch.testing.assert_close(found.detach(), 2 * expected / (4 * 3 * 2))


def test_centers_that_coincide_have_a_gradient():
    loss = SoftTriple(16, 5, n_centers=3)
    loss.centers = nn.Parameter(loss.centers[:, :1].repeat(1, 3, 1))
    embeddings, labels = batch(dtype=torch.float32)
    loss(embeddings, labels).backward()
    assert loss.centers.grad.isfinite().all()


def test_one_center_is_a_softmax_of_cosines():
    embeddings, labels = batch()
    loss = SoftTriple(16, 5, n_centers=1, margin=0.0, tau=0.2).double()
    check_equal(loss, lambda x, y: cross_entropy(20 * cosine(x, loss.centers[:, 0]), y), embeddings, labels)


@pytest.mark.parametrize(("gamma", "of_centers"), [(1e-5, lambda s: s.amax(-1)), (1e7, lambda s: s.mean(-1))])
def test_gamma_goes_from_the_nearest_center_to_their_mean(gamma, of_centers):
    embeddings, labels = batch()
    loss = SoftTriple(16, 5, n_centers=4, gamma=gamma, margin=0.0, tau=0.0).double()

    def limit(x, y):
        return cross_entropy(20 * of_centers(cosine(x, loss.centers.flatten(0, 1)).view(-1, 5, 4)), y)

    check_equal(loss, limit, embeddings, labels, atol=1e-6)


def test_the_class_is_exchanged_with_all_its_centers_in_training_only():
    embeddings, labels = batch(classes=2)
    plain, exchanging = (SoftTriple(16, 2, label_swap=label_swap).double() for label_swap in (None, SSE(2, 1.0)))
    exchanging.centers = plain.centers
    assert torch.equal(exchanging(embeddings, labels), plain(embeddings, 1 - labels))
    assert torch.equal(exchanging.eval()(embeddings, labels), plain(embeddings, labels))


def test_odd_settings_and_labels_are_refused():
    with pytest.raises(ValueError, match="n_centers must be at least 1, got 0"):
        SoftTriple(16, 5, n_centers=0)
    with pytest.raises(ValueError, match=r"scale and gamma must be positive, got 20.0 and 0.0"):
        SoftTriple(16, 5, gamma=0.0)
    with pytest.raises(ValueError, match="tau must not be negative, got -1"):
        SoftTriple(16, 5, tau=-1.0)
    with pytest.raises(ValueError, match=r"labels must lie in 0..4, got -1..0"):
        SoftTriple(16, 5)(torch.ones(2, 16), torch.tensor([0, -1]))


def test_one_center_needs_no_choice_among_centers():
    assert SoftTriple(16, 5).without_effect == {}
    loss = SoftTriple(16, 5, n_centers=1)
    assert loss.without_effect.keys() == {"gamma", "tau"}
    other = SoftTriple(16, 5, n_centers=1, gamma=9.0, tau=3.0)
    other.load_state_dict(loss.state_dict())
    check_equal(loss.double(), other.double(), *batch())
