import math

import pytest
import torch
from torch import nn

from episodic import Task
from episodic.learners.matching import Matching
from tests.conftest import random_task
from tests.learners.laws import check_laws


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


def test_probabilities_sum_to_one():
    p = Matching(nn.Identity()).classify(random_task()).logits.exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(3, 5))


def test_unscaled_cosine_caps_the_confidence():
    # The query on its class's support, the other four classes orthogonal to it: e / (e + 4) = 0.4046.
    task = Task(torch.eye(5)[None], torch.arange(5)[None], torch.eye(5)[None, :1], n_way=5)
    p = Matching(nn.Identity(), scale=1.0).classify(task).logits.exp()
    assert math.isclose(p[0, 0, 0].item(), math.e / (math.e + 4), rel_tol=1e-5)


def test_gradient_is_finite_where_a_class_is_far():
    task = random_task(n_shot=3).map(lambda x: x.requires_grad_())
    leaf = task.support.detach().requires_grad_()
    Matching(nn.Identity(), scale=100.0).classify(
        Task(leaf, task.support_y, task.query.detach(), 4)
    ).logits.sum().backward()
    assert leaf.grad.isfinite().all()


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="scale must be positive"):
        Matching(nn.Identity(), scale=-1)
