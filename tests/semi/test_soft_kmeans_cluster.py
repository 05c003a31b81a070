import math

import pytest
import torch

from episodic.learners.prototypical import Prototypical
from episodic.semi.soft_kmeans import SoftKMeans
from episodic.semi.soft_kmeans_cluster import SoftKMeansCluster
from tests.conftest import Features, random_task
from tests.semi.laws import check_wrapper_laws
from tests.semi.test_soft_kmeans import line


def test_laws():
    check_wrapper_laws(
        lambda learner: SoftKMeansCluster(learner, radius=3), lambda learner: SoftKMeansCluster(learner, steps=0)
    )


def test_the_example_worked_out_by_hand():
    task = line([3.0, 5.0], [3.5, -1.0], [0.0])
    prediction = SoftKMeansCluster(Prototypical(Features(1), temperature=1.0), radius=2).classify(task)
    weights = torch.tensor([[[0.858102, 0.116131], [2.9e-7, 6e-16]]])
    torch.testing.assert_close(prediction.unlabeled, weights, atol=1e-6, rtol=0)
    refined = torch.tensor([[[3.230908, 4.843928]]])
    torch.testing.assert_close(prediction.logits, -(refined**2), atol=1e-4, rtol=0)


def test_with_an_endless_radius_it_is_soft_kmeans():
    task = random_task(n_unlabeled=9)
    learner = Prototypical(Features(6), temperature=1.0)
    wide = SoftKMeansCluster(learner, radius=math.exp(60)).classify(task)
    torch.testing.assert_close(wide.logits, SoftKMeans(learner).classify(task).logits)


def test_the_radius_is_learned():
    wrapper = SoftKMeansCluster(Prototypical(Features(6), temperature=1.0), radius=3)
    wrapper.classify(random_task(n_unlabeled=9)).logits[0, 0, 0].backward()
    assert wrapper.log_radius.grad.abs() > 1e-6


def test_a_radius_that_makes_no_sense():
    with pytest.raises(ValueError, match="radius must be a number, above 0, got 0"):
        SoftKMeansCluster(Prototypical(Features(1), temperature=1.0), radius=0)


def test_without_steps_no_other_setting_has_an_effect():
    learner = Prototypical(Features(6), temperature=1.0)
    assert SoftKMeansCluster(learner, steps=0).without_effect.keys() == {"temperature", "distance", "radius"}
    assert SoftKMeansCluster(learner).without_effect == {}
