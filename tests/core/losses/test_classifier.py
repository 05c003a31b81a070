import pytest
import torch
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
from torch import nn

from episodic.core.losses.classifier import Classifier
from episodic.core.losses.proxy_nca import ProxyNCA
from episodic.core.regularizers.sse import SSE
from tests.core.losses.laws import batch, check_equal, check_loss_laws, value_and_gradient


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"scale": 10.0}])
def test_laws(settings):
    check_loss_laws(lambda: Classifier(16, 5, **settings), renamable=False, scalable="scale" in settings)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_a_linear_layer_and_cross_entropy(smoothing):
    embeddings, labels = batch()
    ours = Classifier(16, 5, smoothing).double()
    layer = nn.Linear(16, 5).double()
    layer.load_state_dict(ours.linear.state_dict())
    theirs = nn.CrossEntropyLoss(label_smoothing=smoothing)
    check_equal(ours, lambda x, y: theirs(layer(x), y), embeddings, labels)
    torch.testing.assert_close(ours.linear.weight.grad, layer.weight.grad)
    torch.testing.assert_close(ours.linear.bias.grad, layer.bias.grad)


def test_of_cosines_equals_normalized_softmax_of_pytorch_metric_learning():
    embeddings, labels = batch()
    ours, theirs = Classifier(16, 5, scale=10.0).double(), NormalizedSoftmaxLoss(5, 16, temperature=0.1)
    theirs.W.data = ours.linear.weight.data.T.clone()
    check_equal(ours, theirs, embeddings, labels)
    torch.testing.assert_close(ours.linear.weight.grad, theirs.W.grad.T)


def test_of_cosines_equals_proxy_nca_of_half_the_scale():
    embeddings, labels = batch()
    ours, theirs = Classifier(16, 5, scale=10.0).double(), ProxyNCA(16, 5, variant="probability", scale=5.0)
    theirs.proxies = nn.Parameter(ours.linear.weight.detach().clone())
    check_equal(ours, theirs, embeddings, labels)


def test_exchanged_labels_are_smoothed_on_average():
    """With one item of each class all exchanges can be averaged over: 3 classes, each other one with probability 0.1."""
    embeddings, _ = batch(classes=3, per_class=1)
    labels = torch.arange(3)
    plain, smooth = Classifier(16, 3).double(), Classifier(16, 3, label_smoothing=0.2 * 3 / 2).double()
    smooth.linear = plain.linear
    average = 0.8 * plain(embeddings, labels) + sum(0.1 * plain(embeddings, (labels + k) % 3) for k in (1, 2))
    assert average.item() == pytest.approx(smooth(embeddings, labels).item(), abs=1e-12)
    exchanging = Classifier(16, 3, label_swap=SSE(3, 0.2)).double()
    exchanging.linear = plain.linear
    torch.manual_seed(0)
    drawn = exchanging(embeddings.repeat(20_000, 1), labels.repeat(20_000))
    assert drawn.item() == pytest.approx(average.item(), abs=0.01)
    assert abs(plain(embeddings, labels).item() - average.item()) > 0.03


def test_the_label_is_exchanged_in_training_only():
    embeddings, labels = batch(classes=2)
    plain, exchanging = (Classifier(16, 2, label_swap=label_swap).double() for label_swap in (None, SSE(2, 1.0)))
    exchanging.linear = plain.linear
    (value, gradient), (wanted, by) = (
        value_and_gradient(loss, embeddings, y) for loss, y in ((exchanging, labels), (plain, 1 - labels))
    )
    assert torch.equal(value, wanted)
    assert torch.equal(gradient, by)
    assert torch.equal(exchanging.eval()(embeddings, labels), plain(embeddings, labels))


def test_odd_settings_and_labels_are_refused():
    with pytest.raises(ValueError, match=r"label_smoothing must lie in 0..1, got 1.5"):
        Classifier(16, 5, label_smoothing=1.5)
    with pytest.raises(ValueError, match="scale must be positive, or None for a linear layer, got 0"):
        Classifier(16, 5, scale=0.0)
    with pytest.raises(ValueError, match=r"labels must lie in 0..4, got 0..5"):
        Classifier(16, 5)(torch.ones(2, 16), torch.tensor([0, 5]))
