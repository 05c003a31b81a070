"""Embeddings in two dimensions: classes that are far apart stay apart, and the same call gives the same picture."""

import numpy as np

from episodic.learners.maml import MAML
from episodic.learners.prototypical import Prototypical
from episodic.report.plane import plane
from tests.conftest import Features, random_store
from tests.report.cases import FP32, PLAIN, conv4


def test_images_of_a_class_lie_together_in_the_plane():
    """The classes are so far apart that t-SNE cannot mix them on any processor. At random, a third of the neighbors would agree."""
    store = random_store(separation=9.0)
    pixels = Prototypical(Features(1, 16, 16))
    found = plane(pixels, store, [6, 1, 3], PLAIN, FP32, per_class=12)
    assert found.labels.tolist() == [6] * 12 + [1] * 12 + [3] * 12
    gaps = np.linalg.norm(found.points[:, None] - found.points, axis=-1)
    np.fill_diagonal(gaps, np.inf)
    assert (found.labels[gaps.argmin(1)] == found.labels).mean() > 0.6


def test_the_same_call_gives_the_same_points():
    store = random_store()
    points = [plane(Prototypical(conv4()), store, [0, 1, 2], PLAIN, FP32).points for _ in range(2)]
    assert np.array_equal(*points)


def test_there_is_no_plane_without_embeddings():
    assert plane(MAML(conv4(), 3), random_store(), [0, 1, 2], PLAIN, FP32) is None
