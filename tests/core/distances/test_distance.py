import torch

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.distance import AbstractDistance


class Scaled(AbstractDistance):
    """The largest difference of a coordinate, times a factor."""

    def __init__(self, factor: float):
        self.factor = factor

    def matrix(self, x, y):
        return self.factor * (x[..., :, None, :] - y[..., None, :, :]).abs().amax(-1)

    def flip(self, matrix):
        return -matrix

    def to_euclidean(self, distances):
        return None

    def points(self, x):
        return None


def test_a_distance_of_ones_own_is_four_methods():
    x = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    assert Scaled(2.0).distances(x, x).tolist() == [[0, 6], [6, 0]]
    assert Scaled(2.0).similarities(x, x).tolist() == [[0, -6], [-6, 0]]


def test_distances_with_equal_settings_are_equal():
    assert Scaled(2.0) == Scaled(2.0) != Scaled(3.0)
    assert Scaled(2.0) != Cosine()
    assert {Scaled(2.0): "known"}[Scaled(2.0)] == "known"
    assert repr(Scaled(2.0)) == "Scaled(factor=2.0)"
