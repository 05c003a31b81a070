import pytest
import torch
from pytorch_metric_learning.distances import SNRDistance

from episodic.core.distances.snr import SNR
from tests.core.distances.laws import check_distance_laws, vectors


def test_laws():
    check_distance_laws(SNR(), lambda x, y: (y - x).var(correction=0) / x.var(correction=0), symmetric=False)


def test_equals_pytorch_metric_learning():
    x, y = vectors(5, 6), vectors(7, 6, seed=1)
    torch.testing.assert_close(SNR().matrix(x, y), SNRDistance(normalize_embeddings=False)(x, y))


def test_by_hand():
    snr = SNR().matrix
    anchor, other = torch.tensor([[2.0, 0, -2]]), torch.tensor([[1.0, 1, -2]])
    assert snr(anchor, other).item() == pytest.approx(0.25)
    assert snr(other, anchor).item() == pytest.approx(1 / 3)
    assert snr(anchor, other + 5).item() == pytest.approx(0.25)
    assert snr(3 * anchor, 3 * other).item() == pytest.approx(0.25)
    assert snr(anchor, -anchor).item() == pytest.approx(4)
    assert snr(torch.ones(1, 3), other).isfinite().all()


def test_of_centered_unit_vectors_it_is_the_squared_distance():
    x = vectors(5, 6)
    x = torch.nn.functional.normalize(x - x.mean(-1, keepdim=True), dim=-1)
    torch.testing.assert_close(SNR().matrix(x, x), torch.cdist(x, x).square())
