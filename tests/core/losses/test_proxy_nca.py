import math

import pytest
import torch
from pytorch_metric_learning.losses import ProxyNCALoss
from torch import nn
from torch.nn.functional import cross_entropy

from episodic.core.functional.pairs import cosine, squared_euclidean, unit
from episodic.core.losses.proxy_nca import ProxyNCA
from episodic.core.regularizers.sse import SSE
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_loss_laws, value_and_gradient

VARIANTS = ("original", "probability")


def with_proxies_at(degrees, **settings):
    loss = ProxyNCA(2, len(degrees), **settings).double()
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    loss.proxies = nn.Parameter(torch.stack([angles.cos(), angles.sin()], dim=1))
    return loss


@pytest.mark.parametrize("variant", VARIANTS)
def test_laws(variant):
    check_loss_laws(lambda: ProxyNCA(16, 5, variant=variant), renamable=False, signed=variant == "original")


@pytest.mark.parametrize(
    ("variant", "scale", "value"),
    [
        ("original", 1.0, -1.9802888),
        ("original", 9.0, -17.8225986),
        ("probability", 1.0, 0.2128816),
        ("probability", 9.0, 0.0059440),
    ],
)
def test_four_vectors_by_hand(variant, scale, value):
    loss = with_proxies_at([30.0, 135.0], variant=variant, scale=scale)
    assert loss(FOUR, FOUR_LABELS).item() == pytest.approx(value, abs=3e-7)


@pytest.mark.parametrize("scale", [1.0, 9.0])
def test_equals_pytorch_metric_learning(scale):
    embeddings, labels = batch()
    ours = ProxyNCA(16, 5, variant="probability", scale=scale).double()
    theirs = ProxyNCALoss(5, 16, softmax_scale=scale)
    theirs.proxies.data = ours.proxies.data.clone()
    check_equal(ours, theirs, embeddings, labels)
    torch.testing.assert_close(ours.proxies.grad, theirs.proxies.grad)


def test_probability_is_the_cross_entropy_of_cosines():
    embeddings, labels = batch()
    loss = ProxyNCA(16, 5, variant="probability", scale=3.0).double()
    check_equal(loss, lambda x, y: cross_entropy(6 * cosine(x, loss.proxies), y), embeddings, labels)


def test_original_equals_the_sum_over_items_and_proxies():
    """The paper's equation with squared distances, in a loop."""
    embeddings, labels = batch()
    loss = ProxyNCA(16, 5, scale=2.0).double()

    def by_hand(x, y):
        d = 2.0 * squared_euclidean(unit(x), unit(loss.proxies))
        ratios = [(-d[i, c]).exp() / sum((-d[i, k]).exp() for k in range(5) if k != c) for i, c in enumerate(y)]
        return -torch.stack(ratios).log().mean()

    (value, gradient), (wanted, by) = (value_and_gradient(each, embeddings, labels) for each in (loss, by_hand))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient, by)


def test_the_label_is_exchanged_for_positives_and_negatives_in_training_only():
    embeddings, labels = batch(classes=2)
    for variant in VARIANTS:
        plain = ProxyNCA(16, 2, variant=variant).double()
        exchanging = ProxyNCA(16, 2, variant=variant, label_swap=SSE(2, 1.0)).double()  # to the other class
        exchanging.proxies = plain.proxies
        assert torch.equal(exchanging(embeddings, labels), plain(embeddings, 1 - labels))
        assert torch.equal(exchanging.eval()(embeddings, labels), plain(embeddings, labels))


@pytest.mark.usefixtures("unchecked")
def test_odd_settings_and_labels_are_refused():
    with pytest.raises(ValueError, match="variant must be one of original, probability, got 'nca'"):
        ProxyNCA(16, 5, variant="nca")
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        ProxyNCA(16, 5, scale=0.0)
    with pytest.raises(ValueError, match="compares with other classes and needs at least 2, got 1"):
        ProxyNCA(16, 1)
    with pytest.raises(ValueError, match="n_classes must be at least 1, got 0"):
        ProxyNCA(16, 0)
    with pytest.raises(ValueError, match="the exchange is of 4 rows, the table has 5"):
        ProxyNCA(16, 5, label_swap=SSE(4, 0.1))
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=rf"labels must lie in 0..4, got {min(wrong, 0)}..{max(wrong, 0)}"):
            ProxyNCA(16, 5)(torch.ones(2, 16), torch.tensor([0, wrong]))
