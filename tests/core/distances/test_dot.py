import torch
from pytorch_metric_learning.distances import DotProductSimilarity

from episodic.core.distances.dot import Dot
from tests.core.distances.laws import check_distance_laws, vectors


def test_laws():
    check_distance_laws(Dot(), lambda x, y: (x * y).sum())


def test_equals_pytorch_metric_learning():
    x, y = vectors(5, 6), vectors(7, 6, seed=1)
    torch.testing.assert_close(Dot().matrix(x, y), DotProductSimilarity(normalize_embeddings=False)(x, y))
