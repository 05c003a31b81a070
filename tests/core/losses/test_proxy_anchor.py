import math

import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import nn
from torch.nn.functional import cosine_similarity, softplus

from episodic.core.losses.proxy_anchor import ProxyAnchor
from episodic.core.regularizers.sse import SSE
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_loss_laws


def with_proxies_at(degrees, **settings):
    loss = ProxyAnchor(2, len(degrees), **settings).double()
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    loss.proxies = nn.Parameter(torch.stack([angles.cos(), angles.sin()], dim=1))
    return loss


def test_laws():
    check_loss_laws(lambda: ProxyAnchor(16, 5), renamable=False)


def test_four_vectors_by_hand():
    assert with_proxies_at([30.0, 135.0])(FOUR, FOUR_LABELS).item() == pytest.approx(15.3411099, abs=1e-7)


@pytest.mark.parametrize("n_classes", [5, 8])  # in the batch are 5
@pytest.mark.parametrize("settings", [(0.1, 32.0), (0.3, 4.0)])
def test_equals_pytorch_metric_learning(settings, n_classes):
    embeddings, labels = batch()
    ours = ProxyAnchor(16, n_classes, *settings).double()
    theirs = ProxyAnchorLoss(n_classes, 16, *settings)
    theirs.proxies.data = ours.proxies.data.clone()
    check_equal(ours, theirs, embeddings, labels)
    torch.testing.assert_close(ours.proxies.grad, theirs.proxies.grad)


def test_one_item():
    """Softplus for its own proxy, and for each other one, over all proxies."""
    x, _ = batch(classes=1, per_class=1)
    loss = ProxyAnchor(16, 4, margin=0.2, scale=3.0).double()
    s = cosine_similarity(x, loss.proxies)
    expected = softplus(-3 * (s[1] - 0.2)) + softplus(3 * (s[[0, 2, 3]] + 0.2)).sum() / 4
    torch.testing.assert_close(loss(x, torch.tensor([1])), expected)


def test_a_proxy_far_from_every_item_learns_nothing():
    loss = with_proxies_at([0.0, 25.0, 190.0])
    x = FOUR[:2]
    loss(x, torch.tensor([0, 1])).backward()
    assert loss.proxies.grad[2].abs().max() < 1e-6
    assert loss.proxies.grad[:2].norm(dim=1).min() > 1


def test_the_label_is_exchanged_for_positives_and_negatives_in_training_only():
    embeddings, labels = batch(classes=2)
    plain, exchanging = (ProxyAnchor(16, 2, label_swap=label_swap).double() for label_swap in (None, SSE(2, 1.0)))
    exchanging.proxies = plain.proxies
    assert torch.equal(exchanging(embeddings, labels), plain(embeddings, 1 - labels))
    assert torch.equal(exchanging.eval()(embeddings, labels), plain(embeddings, labels))


def test_odd_settings_and_labels_are_refused():
    with pytest.raises(ValueError, match="scale must be positive, got -1"):
        ProxyAnchor(16, 5, scale=-1.0)
    with pytest.raises(ValueError, match=r"labels must lie in 0..4, got 0..5"):
        ProxyAnchor(16, 5)(torch.ones(2, 16), torch.tensor([0, 5]))
