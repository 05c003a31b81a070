import torch
from pytorch_metric_learning.distances import LpDistance

from episodic.core.distances.squared_euclidean import SquaredEuclidean
from tests.core.distances.laws import check_distance_laws, vectors


def test_laws():
    check_distance_laws(SquaredEuclidean(), lambda x, y: (x - y).square().sum())


def test_equals_pytorch_metric_learning():
    x, y = vectors(5, 6), vectors(7, 6, seed=1)
    theirs = LpDistance(normalize_embeddings=False, power=2)
    torch.testing.assert_close(SquaredEuclidean().matrix(x, y), theirs(x, y))
