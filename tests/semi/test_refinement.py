import dataclasses
import inspect

import pytest
import torch

from episodic.core.distances.dot import Dot
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.learners.prototypical import Prototypical
from episodic.semi._refinement import AbstractRefinement
from episodic.semi.masked_soft_kmeans import MaskedSoftKMeans, normalized_distances, statistics
from episodic.semi.soft_kmeans import SoftKMeans
from episodic.semi.soft_kmeans_cluster import SoftKMeansCluster
from tests.conftest import Features, random_task
from tests.learners.laws import DISTANCE_NAMES, DISTANCES

ALL = [SoftKMeans, SoftKMeansCluster, MaskedSoftKMeans]


class Fixed(AbstractRefinement):
    """Weights that are given."""

    def __init__(self, learner, given, steps=1, distance=None, detach=False):
        super().__init__(learner, "fixed", steps, 2.0, distance or SquaredEuclidean(), detach)
        self.given = given
        self.seen = []

    def weights(self, distances, unlabeled, initial):
        self.seen.append((distances, initial))
        return self.given


def test_prototypes_are_weighted_means_and_the_learner_sees_one_support_item_a_class():
    task = random_task(n_unlabeled=9, imbalanced=True)
    given = torch.rand(3, 9, 4, generator=torch.Generator().manual_seed(0))
    learner = Prototypical(Features(6), temperature=1.0)
    prediction = Fixed(learner, given).classify(task)
    assert torch.equal(prediction.unlabeled, given)
    for e in range(3):
        centers = []
        for c in range(4):
            mine = task.support[e][task.support_y[e] == c]
            total = mine.sum(0) + sum(given[e, j, c] * task.unlabeled[e, j] for j in range(9))
            centers.append(total / (len(mine) + given[e, :, c].sum()))
        expected = dataclasses.replace(
            task,
            support=torch.stack(centers)[None],
            support_y=torch.arange(4)[None],
            query=task.query[[e]],
            unlabeled=None,
        )
        torch.testing.assert_close(prediction.logits[[e]], learner.classify(expected).logits, atol=1e-5, rtol=1e-5)


def test_weights_of_zero_leave_the_prototypes_where_they_are():
    task, learner = random_task(n_unlabeled=9), Prototypical(Features(6), temperature=1.0)
    found = Fixed(learner, torch.zeros(3, 9, 4), steps=3).classify(task).logits
    torch.testing.assert_close(found, learner.classify(task).logits)


def test_a_step_sees_the_distances_to_the_latest_prototypes_and_to_the_first():
    task = random_task(n_unlabeled=9)
    wrapper = Fixed(Prototypical(Features(6), temperature=1.0), torch.full((3, 9, 4), 0.25), steps=3)
    wrapper.classify(task)
    centers = task.support.view(3, 4, 2, 6).mean(2)
    first = torch.cdist(task.unlabeled, centers) ** 2 / 2.0
    assert len(wrapper.seen) == 3
    for distances, initial in wrapper.seen:
        torch.testing.assert_close(initial, first, atol=1e-4, rtol=1e-4)
        assert torch.equal(distances, initial) == (distances is wrapper.seen[0][0])
    torch.testing.assert_close(wrapper.seen[1][0], wrapper.seen[2][0])  # the weights, so the prototypes, were the same
    centers = (task.support.view(3, 4, 2, 6).sum(2) + 0.25 * task.unlabeled.sum(1, keepdim=True)) / (2 + 0.25 * 9)
    expected = torch.cdist(task.unlabeled, centers) ** 2 / 2.0
    torch.testing.assert_close(wrapper.seen[2][0], expected, atol=1e-4, rtol=1e-4)


def test_weights_are_constants_to_the_gradient_where_they_are_detached():
    task = random_task(n_unlabeled=9)
    for detach in (False, True):
        given = torch.full((3, 9, 4), 0.25, requires_grad=True)
        support = task.support.clone().requires_grad_()
        wrapper = Fixed(Prototypical(Features(6), temperature=1.0), given, detach=detach)
        wrapper.classify(dataclasses.replace(task, support=support)).logits[..., 0].sum().backward()
        assert (given.grad is None) == detach
        assert support.grad.abs().sum() > 0


def softmax_by_loop(wrapper, of_pair, unlabeled, centers):
    """The weights of the three k-means without their mask, item by item."""
    rows = []
    for u in unlabeled:
        scores = [-of_pair(u, p) / wrapper.temperature for p in centers]
        if isinstance(wrapper, SoftKMeansCluster):
            radius = wrapper.log_radius.detach().exp()
            if isinstance(wrapper.distance, SquaredEuclidean):
                to_origin = (u**2).sum()
            else:  # ||u|| from the origin; 1 - 0 for the cosine of a vector of 0; var(0 - u) / var(u) = 1
                to_origin = u.norm() if type(wrapper.distance).__name__ == "Euclidean" else torch.tensor(1.0)
            scores.append(-to_origin / wrapper.temperature / radius**2 - radius.log())
        rows.append(torch.stack(scores).softmax(0)[: len(centers)])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("distance", "of_pair"), DISTANCES, ids=DISTANCE_NAMES)
def test_assignments_by_any_distance_equal_an_explicit_loop(kind, distance, of_pair):
    """The mean stays the center, whatever the distance."""
    task = random_task(n_unlabeled=9, imbalanced=True)
    torch.manual_seed(0)
    further = {"radius": 2.0} if kind is SoftKMeansCluster else {}
    wrapper = kind(Prototypical(Features(6), temperature=1.0), steps=2, temperature=0.8, distance=distance, **further)
    prediction = wrapper.classify(task)
    for e in range(3):
        support, y, unlabeled = task.support[e], task.support_y[e], task.unlabeled[e]
        centers, first = torch.stack([support[y == c].mean(0) for c in range(4)]), None
        for _ in range(2):
            w = softmax_by_loop(wrapper, of_pair, unlabeled, centers)
            if kind is MaskedSoftKMeans:
                d = torch.stack([torch.stack([of_pair(u, p) / 0.8 for p in centers]) for u in unlabeled])[None]
                first = d if first is None else first
                beta, gamma = wrapper.mask(statistics(normalized_distances(first))).exp()[0].detach().unbind(-1)
                w = w * (-gamma * (normalized_distances(d)[0] - beta)).sigmoid()
            centers = torch.stack(
                [
                    (support[y == c].sum(0) + (w[:, c, None] * unlabeled).sum(0)) / ((y == c).sum() + w[:, c].sum())
                    for c in range(4)
                ]
            )
        torch.testing.assert_close(prediction.unlabeled[e], w, atol=1e-4, rtol=1e-3)
        expected = torch.stack([torch.stack([-((q - p) ** 2).sum() for p in centers]) for q in task.query[e]])
        torch.testing.assert_close(prediction.logits[e], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_a_similarity_that_is_no_distance_is_refused(kind):
    name = kind.__module__.rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"semi={name} needs distances, and Dot\(\) cannot be read as one: take sq"):
        kind(Prototypical(Features(6), temperature=1.0), distance=Dot())


@pytest.mark.parametrize("kind", ALL)
def test_every_setting_but_the_steps_is_without_effect_where_there_are_none(kind):
    settings = set(inspect.signature(kind).parameters) - {"learner", "steps"}
    assert kind(Prototypical(Features(6), temperature=1.0), steps=0).without_effect.keys() == settings


def test_settings_without_effect_have_none():
    task, learner = random_task(n_unlabeled=9), Prototypical(Features(6), temperature=1.0)
    one = SoftKMeans(learner, steps=0).classify(task).logits
    other = SoftKMeans(learner, steps=0, temperature=9.0, distance=DISTANCES[2][0], detach_assignments=False)
    assert torch.equal(other.classify(task).logits, one)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"steps must be an integer, at least 0 \(0 is the learner itself\), got -1"):
        Fixed(Prototypical(Features(6), temperature=1.0), None, steps=-1)
