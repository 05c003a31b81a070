import torch
from pytorch_metric_learning.regularizers import ZeroMeanRegularizer

from episodic.core.losses.zero_mean import ZeroMean
from tests.core.losses.laws import batch, check_loss_laws


def test_laws():
    check_loss_laws(ZeroMean, scalable=False)


def test_equals_pytorch_metric_learning():
    embeddings, labels = batch()
    torch.testing.assert_close(ZeroMean()(embeddings, labels), ZeroMeanRegularizer()(embeddings))


def test_two_vectors_by_hand():
    assert ZeroMean()(torch.tensor([[1.0, 2.0, -3.0], [1.0, 1.0, 1.0]]), torch.tensor([0, 0])) == 1.5
