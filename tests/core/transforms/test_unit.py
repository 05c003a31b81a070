import torch
from sklearn.preprocessing import normalize

from episodic.core.transforms.unit import Unit
from tests.core.transforms.laws import body, check


def test_it_is_a_transform():
    check(Unit)


def test_vectors_are_those_of_scikit_learn():
    x = torch.randn(5, 7)
    torch.testing.assert_close(Unit(body(7))(x), torch.from_numpy(normalize(x.numpy())))


def test_squared_distances_are_two_less_twice_the_cosine():
    x = Unit(body(4))(torch.randn(6, 4))
    torch.testing.assert_close(torch.cdist(x, x).square(), 2 - 2 * x @ x.T, atol=1e-5, rtol=0)
