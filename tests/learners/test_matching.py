import dataclasses
import math

import pytest
import torch
from torch import nn

from episodic import Task
from episodic.learners.matching import Matching
from tests.conftest import Features, random_task
from tests.learners.laws import DISTANCE_NAMES, DISTANCES, check_laws, similarity_of_pair


def test_laws():
    check_laws(Matching(nn.Identity()))


def test_hand_computed_example():
    task = Task(torch.tensor([[[3.0, 0.0], [0.0, 2.0]]]), torch.tensor([[0, 1]]), torch.tensor([[[5.0, 0.0]]]), n_way=2)
    p = Matching(nn.Identity(), scale=1.0).classify(task).logits.exp()
    torch.testing.assert_close(p, torch.tensor([[[0.73106, 0.26894]]]), atol=1e-5, rtol=0)


def test_equals_an_explicit_loop():
    task = random_task(imbalanced=True)
    logits = Matching(nn.Identity(), scale=4.0).classify(task).logits
    for e in range(3):
        for q in range(5):
            cosines = torch.stack([torch.cosine_similarity(task.query[e, q], s, dim=0) for s in task.support[e]])
            attention = (4 * cosines).softmax(0)
            for n in range(4):
                torch.testing.assert_close(logits[e, q, n].exp(), attention[task.support_y[e] == n].sum())


@pytest.mark.parametrize(("distance", "of_pair"), DISTANCES, ids=DISTANCE_NAMES)
def test_any_distance_equals_an_explicit_loop(distance, of_pair):
    task = random_task(imbalanced=True)
    learner = Matching(nn.Identity(), scale=0.5, distance=distance)
    logits = learner.classify(task).logits
    for e in range(3):
        for q in range(5):
            similarities = [similarity_of_pair(distance, of_pair, task.query[e, q], s) for s in task.support[e]]
            attention = (0.5 * torch.stack(similarities)).softmax(0)
            for n in range(4):
                torch.testing.assert_close(
                    logits[e, q, n].exp(), attention[task.support_y[e] == n].sum(), atol=1e-5, rtol=1e-4
                )
    check_laws(learner)


def test_steps_have_no_effect_without_full_context():
    assert list(Matching(nn.Identity()).without_effect) == ["steps"]
    assert Matching(Features(6), full_context=True).without_effect == {}


def test_probabilities_sum_to_one():
    p = Matching(nn.Identity()).classify(random_task()).logits.exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(3, 5))


def test_unscaled_cosine_caps_the_confidence():
    # The query on its class's support, the other four classes orthogonal to it: e / (e + 4) = 0.4046.
    task = Task(torch.eye(5)[None], torch.arange(5)[None], torch.eye(5)[None, :1], n_way=5)
    p = Matching(nn.Identity(), scale=1.0).classify(task).logits.exp()
    assert math.isclose(p[0, 0, 0].item(), math.e / (math.e + 4), rel_tol=1e-5)


def test_gradient_is_finite_where_a_class_is_far():
    # The support of class 1 is opposite to the query: its share of a softmax, e^-600, is no float32.
    support = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], requires_grad=True)
    task = Task(support, torch.tensor([[0, 1]]), torch.tensor([[[1.0, 0.1]]]), n_way=2)
    logits = Matching(Features(6), scale=300.0).classify(task).logits
    assert -601 < logits[0, 0, 1] < -590
    logits[0, 0, 1].backward()
    assert support.grad.isfinite().all()
    assert support.grad.abs().max() > 0


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="scale must be a number, above 0"):
        Matching(nn.Identity(), scale=-1)


def with_full_context(seed=0, **settings):
    torch.manual_seed(seed)
    return Matching(Features(6), full_context=True, **settings).eval()


def test_laws_with_full_context():
    check_laws(with_full_context(), support_order_matters=True, twins_matter=True)


def test_full_context_depends_on_the_order_of_the_support_and_is_shuffled_in_training():
    learner, task = with_full_context(), random_task()
    swapped = dataclasses.replace(task, support=task.support.flip(1), support_y=task.support_y.flip(1))
    assert not torch.allclose(learner.classify(task).logits, learner.classify(swapped).logits, atol=1e-3)
    learner.train()
    torch.manual_seed(0)
    first, second = learner.classify(task).logits, learner.classify(task).logits
    assert not torch.allclose(first, second, atol=1e-3)


def in_order(learner, task, order):
    """The answers where the support is read in this order."""
    put = torch.empty_like(order).index_copy(0, learner.eval().context.order(len(order)), order)
    read = dataclasses.replace(task, support=task.support[:, put], support_y=task.support_y[:, put])
    return learner.classify(read).logits


def test_training_reads_the_support_in_a_random_order_and_nothing_else_changes():
    learner, task = with_full_context(), random_task(imbalanced=True)
    torch.manual_seed(5)
    trained = learner.train().classify(task).logits
    torch.manual_seed(5)
    order = torch.randperm(11)
    torch.testing.assert_close(trained, in_order(learner, task, order))


def test_evaluation_reads_classes_as_mixed_as_training_does():
    """How often two items of one class follow each other: about as often as in random orders, not always as in the task."""
    y = torch.arange(5).repeat_interleave(5)
    context = with_full_context().context
    neighbors = lambda order: (y[order][1:] == y[order][:-1]).sum().item()  # noqa: E731
    random = sorted(neighbors(context.train().order(25)) for _ in range(200))
    fixed = context.eval().order(25)
    assert neighbors(torch.arange(25)) == 20
    assert random[4] <= neighbors(fixed) <= random[-5] < 12
    assert torch.equal(context.order(25), fixed)


def test_full_context_with_zero_weights_is_the_learner_without():
    learner = with_full_context()
    for parameter in learner.context.parameters():
        nn.init.zeros_(parameter)
    task = random_task(imbalanced=True)
    torch.testing.assert_close(learner.classify(task).logits, Matching(Features(6)).classify(task).logits)


def test_full_context_equals_an_explicit_loop():
    """LSTM cells unrolled item by item, each query by itself; the backward half is added to the item that it has read."""
    learner, task = with_full_context(steps=3, scale=2.0), random_task(n_query=2)
    context = learner.context
    logits = learner.classify(task).logits

    halves = []
    for suffix, step in (("l0", 1), ("l0_reverse", -1)):
        half = nn.LSTMCell(6, 6)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        half.load_state_dict({name: getattr(context.over_support, f"{name}_{suffix}") for name in names})
        halves.append((half, step))
    for e in range(3):
        g = [x.clone() for x in task.support[e]]
        for half, step in halves:
            state = (torch.zeros(1, 6), torch.zeros(1, 6))
            for i in context.order(8).tolist()[::step]:
                state = half(task.support[e, i : i + 1], state)
                g[i] = g[i] + state[0][0]
        for q in range(2):
            f = task.query[e, q]
            h, c, r = torch.zeros(6), torch.zeros(6), torch.zeros(6)
            for _ in range(3):
                h, c = (x[0] for x in context.over_query(torch.cat([f, r])[None], (h[None], c[None])))
                h = h + f
                weights = torch.stack([h @ x for x in g]).softmax(0)
                r = sum(w * x for w, x in zip(weights, g, strict=True))
            attention = torch.stack([2 * torch.cosine_similarity(h, x, dim=0) for x in g]).softmax(0)
            for n in range(4):
                torch.testing.assert_close(logits[e, q, n].exp(), attention[task.support_y[e] == n].sum())


def test_steps_must_be_positive():
    with pytest.raises(ValueError, match="steps must be an integer, at least 1"):
        Matching(Features(6), full_context=True, steps=0)
