import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from episodic.core.functional import cosine_similarities, one_hot, prototypes, squared_distances


def test_distances_and_cosines_equal_scikit_learns():
    x, y = torch.randn(2, 7, 5), torch.randn(2, 4, 5)
    for e in range(2):
        a, b = x[e].numpy(), y[e].numpy()
        np.testing.assert_allclose(squared_distances(x, y)[e], euclidean_distances(a, b) ** 2, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(cosine_similarities(x, y)[e], cosine_similarity(a, b), rtol=1e-4, atol=1e-6)


def test_distance_to_itself_is_never_negative():
    x = torch.randn(50, 1600) * 30
    assert (squared_distances(x, x).diagonal() >= 0).all()


def test_a_zero_vector_has_cosine_zero():
    assert torch.equal(cosine_similarities(torch.zeros(1, 3), torch.ones(2, 3)), torch.zeros(1, 2))


def test_prototypes_of_unequal_classes_and_of_none():
    x = torch.tensor([[1.0], [3.0], [10.0]])
    assert prototypes(x, torch.tensor([0, 0, 2]), 3).flatten().tolist() == [2, 0, 10]
    assert one_hot(torch.tensor([-1, 1]), 2).tolist() == [[0, 0], [0, 1]]
