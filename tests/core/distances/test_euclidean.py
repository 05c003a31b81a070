import torch
from pytorch_metric_learning.distances import LpDistance

from episodic.core.distances.euclidean import Euclidean
from tests.core.distances.laws import check_distance_laws, vectors


def test_laws():
    check_distance_laws(Euclidean(), lambda x, y: (x - y).square().sum().sqrt())


def test_equals_pytorch_metric_learning_and_torch():
    x, y = vectors(5, 6), vectors(7, 6, seed=1)
    torch.testing.assert_close(Euclidean().matrix(x, y), LpDistance(normalize_embeddings=False)(x, y))
    torch.testing.assert_close(Euclidean().matrix(x, y), torch.cdist(x, y))


def test_points_that_coincide_have_no_gradient():
    x = torch.ones(3, 4, requires_grad=True)
    Euclidean().matrix(x, x).sum().backward()
    assert (x.grad == 0).all()
