import torch
from pytorch_metric_learning.distances import CosineSimilarity

from episodic.core.distances.cosine import Cosine
from tests.core.distances.laws import check_distance_laws, vectors


def test_laws():
    check_distance_laws(Cosine(), lambda x, y: (x * y).sum() / x.norm() / y.norm())


def test_equals_pytorch_metric_learning():
    x, y = vectors(5, 6), vectors(7, 6, seed=1)
    torch.testing.assert_close(Cosine().matrix(x, y), CosineSimilarity()(x, y))
    torch.testing.assert_close(Cosine().distances(x, y), 1 - CosineSimilarity()(x, y))


def test_a_zero_vector_is_at_distance_1_of_all():
    assert torch.equal(Cosine().distances(torch.zeros(1, 3), torch.ones(2, 3)), torch.ones(1, 2))
