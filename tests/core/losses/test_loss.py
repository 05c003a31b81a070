import pytest
import torch

from episodic.core.functional.pairs import SIMILARITIES, References, cosine, dot, masks
from episodic.core.losses.loss import AbstractPairLoss, AbstractProxyLoss
from tests.conftest import NextRow


class Taken(AbstractPairLoss):
    """Keeps what it is given."""

    measures = SIMILARITIES

    def of_matrix(self, matrix, positive, negative):
        assert not torch.is_autocast_enabled("cpu")
        self.taken = matrix, positive, negative
        return matrix.sum()


class Shifted(AbstractProxyLoss):
    """The sum of the labels that it is given."""

    def of_classes(self, embeddings, labels):
        return embeddings.sum() * 0 + labels.sum()


@pytest.mark.parametrize(("normalize", "measure"), [(True, cosine), (False, dot)])
def test_a_pair_loss_compares_the_batch_with_itself_or_with_references(normalize, measure):
    x, y = torch.randn(4, 3), torch.tensor([0, 0, 1, 2])
    loss = Taken("dot", normalize)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(x, y)
    for found, wanted in zip(loss.taken, (measure(x, x), *masks(y, y, torch.arange(4))), strict=True):
        torch.testing.assert_close(found, wanted)
    references = References(torch.randn(5, 3), torch.tensor([2, 1, 0, 0, 7]), torch.tensor([2, 3, 1, 0]))
    loss(x, y, references)
    expected = measure(x, references.embeddings), *masks(y, references.labels, references.own)
    for found, wanted in zip(loss.taken, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="Taken compares by one of cosine, dot, snr, got 'euclidean'"):
        Taken("euclidean", True)


def test_a_proxy_loss_exchanges_labels_in_training_and_refuses_those_out_of_range():
    loss, x = Shifted(3, NextRow(3)), torch.zeros(2, 4)
    assert loss.train()(x, torch.tensor([0, 1])) == 3
    assert loss.eval()(x, torch.tensor([0, 1])) == 1
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 1\.\.3"):
        loss(x, torch.tensor([3, 1]))
    with pytest.raises(ValueError, match="n_classes must be at least 1, got 0"):
        Shifted(0, None)
