import dataclasses

import pytest
import torch

from episodic import Task
from episodic.learners.matching import Matching
from episodic.learners.prototypical import Prototypical
from episodic.semi.soft_kmeans import SoftKMeans
from tests.conftest import Features, random_task
from tests.semi.laws import check_wrapper_laws


def line(support, unlabeled, query) -> Task:
    """A task of one-dimensional features, one support item a class."""
    points = [torch.tensor(x, dtype=torch.float32)[None, :, None] for x in (support, query, unlabeled)]
    return Task(points[0], torch.arange(len(support))[None], points[1], len(support), points[2])


def test_laws():
    check_wrapper_laws(SoftKMeans, lambda learner: SoftKMeans(learner, steps=0))
    check_wrapper_laws(lambda learner: SoftKMeans(learner, steps=3), lambda learner: SoftKMeans(learner, steps=0))


def test_the_example_worked_out_by_hand():
    task = line([0.0, 2.0], [0.5, 1.5], [0.9])
    prediction = SoftKMeans(Prototypical(Features(1), temperature=1.0)).classify(task)
    z = torch.tensor([[[0.880797, 0.119203], [0.119203, 0.880797]]])
    torch.testing.assert_close(prediction.unlabeled, z, atol=1e-6, rtol=0)
    torch.testing.assert_close(prediction.logits, torch.tensor([[[-0.348570, -0.624730]]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(prediction.logits.softmax(-1)[0, 0, 0], torch.tensor(0.568604), atol=1e-5, rtol=0)


def test_steps_go_on_from_the_latest_prototypes():
    """Against a plain loop over classes and items."""
    task = random_task(episodes=1, n_unlabeled=9, imbalanced=True)
    support, y, unlabeled = task.support[0], task.support_y[0], task.unlabeled[0]
    centers = [support[y == c].mean(0) for c in range(4)]
    for _ in range(3):
        weights = []
        for u in unlabeled:
            scores = torch.stack([-((u - p) ** 2).sum() / 7 for p in centers])
            weights.append(scores.exp() / scores.exp().sum())
        centers = [
            (support[y == c].sum(0) + sum(w[c] * u for w, u in zip(weights, unlabeled, strict=True)))
            / ((y == c).sum() + sum(w[c] for w in weights))
            for c in range(4)
        ]
    expected = torch.stack([-((q - p) ** 2).sum() for q in task.query[0] for p in centers]).view(1, 5, 4)
    found = SoftKMeans(Prototypical(Features(6), temperature=1.0), steps=3, temperature=7).classify(task).logits
    torch.testing.assert_close(found, expected)


def test_items_that_sit_on_prototypes_far_apart_do_not_move_them():
    task = random_task()
    task = dataclasses.replace(task, support=task.support * 30)
    centers = task.support.view(3, 4, 2, 6).mean(2)
    learner = Prototypical(Features(6), temperature=1.0)
    refined = SoftKMeans(learner).classify(dataclasses.replace(task, unlabeled=centers)).logits
    torch.testing.assert_close(refined, learner.classify(task).logits, atol=1e-3, rtol=1e-5)


def test_assignments_are_constants_to_the_gradient_unless_asked_otherwise():
    """Then the derivative of a refined prototype by an unlabeled item is z / (K + sum of z), seen through a query at 0."""
    task = line([0.0, 2.0], [0.5, 1.5], [0.9])
    for detach, same in ((True, True), (False, False)):
        unlabeled = task.unlabeled.clone().requires_grad_()
        wrapper = SoftKMeans(Prototypical(Features(1), temperature=1.0), detach_assignments=detach)
        prediction = wrapper.classify(dataclasses.replace(task, unlabeled=unlabeled))
        prediction.logits[0, 0, 0].backward()  # -(0.9 - p)^2, so d/dp = 2 (0.9 - p)
        z = torch.tensor([0.880797, 0.119203])
        expected = 2 * (0.9 - 0.309601) * z / (1 + z.sum())
        assert torch.allclose(unlabeled.grad[0, :, 0], expected, atol=1e-5) == same


def test_other_learners_see_the_refined_prototypes_as_their_support():
    task = random_task(n_shot=1, n_unlabeled=9)
    learner = Matching(Features(6)).eval()
    taken = SoftKMeans(learner).classify(task).unlabeled
    sums = task.support + taken.mT @ task.unlabeled
    centers = sums / (1 + taken.sum(1)[..., None])
    expected = learner.classify(dataclasses.replace(task, support=centers, unlabeled=None)).logits
    torch.testing.assert_close(SoftKMeans(learner).classify(task).logits, expected)


def test_maps_stay_maps():
    check_wrapper_laws(SoftKMeans, lambda learner: SoftKMeans(learner, steps=0), item=(2, 2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": -1}, "steps .* at least 0"), ({"temperature": 0}, "temperature must be a number, above 0")],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        SoftKMeans(Prototypical(Features(1), temperature=1.0), **settings)


def test_a_learner_without_embeddings_is_refused():
    pytest.importorskip("learn2learn")
    from episodic.learners.maml import MAML

    with pytest.raises(ValueError, match=r"semi=soft_kmeans works on embeddings, but MAML has none"):
        SoftKMeans(MAML(Features(6), n_way=4))


def test_without_steps_no_other_setting_has_an_effect():
    learner = Prototypical(Features(6), temperature=1.0)
    assert SoftKMeans(learner, steps=0).without_effect.keys() == {"temperature", "distance", "detach_assignments"}
    assert SoftKMeans(learner).without_effect == {}
