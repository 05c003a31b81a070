import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.semi_supervised import LabelSpreading
from torch import nn
from torch.nn.functional import cross_entropy

from episodic import Episode, Task
from episodic.config.compose import compose_config
from episodic.core.backbones.conv4 import Conv4
from episodic.learners.tpn import TPN, LengthScale
from tests.conftest import Features, random_task
from tests.learners.laws import check_laws

MAP = (6, 3, 3)


def tpn(shape=MAP, sigma=None, **settings):
    """In evaluation mode, with length scales for random features: near 0.7, or with `sigma` that for every item."""
    torch.manual_seed(0)
    learner = TPN(Features(*shape), **settings).eval()
    last = learner.length_scale.layers[-1]
    nn.init.constant_(last.bias, 2.0)
    if sigma is not None:
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 2 + math.log(math.expm1(sigma)))
    return learner


@pytest.mark.parametrize("neighbors", [4, 20])
def test_laws(neighbors):
    # Not at the default alpha: its solution magnifies rounding up to 199 times.
    check_laws(tpn(alpha=0.5, neighbors=neighbors), item=MAP, transductive=True, twins_matter=True)


def test_hand_computed_example():
    items = torch.tensor([[0.0, 0.0], [2.0, 2.0], [1.0, 0.0]])[None, :, :, None, None]
    task = Task(items[:, :2], torch.tensor([[0, 1]]), items[:, 2:], n_way=2)
    prediction = tpn((2, 1, 1), sigma=1.0, alpha=0.5).classify(task)
    torch.testing.assert_close(prediction.logits, torch.tensor([[[0.39472, 0.21125]]]), atol=1e-5, rtol=0)
    assert prediction.logits.softmax(-1)[0, 0, 0].item() == pytest.approx(0.54574, abs=1e-5)


def test_loss_is_the_cross_entropy_of_support_and_queries():
    task = random_task(item=MAP, imbalanced=True)
    query_y = torch.tensor([[0, 3, 1, 1, 2], [1, 1, 1, 1, 1], [3, 2, 1, 0, 0]])
    episode = Episode(task, query_y, torch.arange(4).expand(3, -1))
    learner = tpn(alpha=0.8, neighbors=3).requires_grad_(False)
    together = dataclasses.replace(task, query=torch.cat([task.support, task.query], 1))
    sigma = learner.length_scale(together.query.flatten(0, 1)).view(3, -1, 1)
    x = together.query.flatten(2) / sigma
    for e in range(3):
        n = x.shape[1]
        w = torch.tensor([[math.exp(-0.5 * (a - b).square().mean()) for b in x[e]] for a in x[e]])
        near = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            near[i, w[i].argsort(descending=True)[:3]] = True
        w = w * (near | near.T)
        s = w / (w.sum(1)[:, None] * w.sum(0)).sqrt()
        y = torch.zeros(n, 4)
        y[range(11), task.support_y[e]] = 1
        f = (torch.eye(n) - 0.8 * s).inverse() @ y
        prediction = learner.classify(task)
        torch.testing.assert_close(prediction.logits[e], f[11:], rtol=1e-4, atol=1e-5)
        loss = cross_entropy(f, torch.cat([task.support_y[e], query_y[e]]))
        torch.testing.assert_close(prediction.loss(episode)[e], loss)


@pytest.mark.parametrize("neighbors", [4, 100])
def test_with_one_length_scale_for_all_it_is_scikit_learns_label_spreading(neighbors):
    # scikit-learn drops self-loops. On the graph's bipartite double cover, where an item has two copies and each edge goes
    # from the first copy of one end to the second of the other, a self-loop is an edge like any other.
    task = random_task(item=MAP, episodes=1, n_query=9)
    x = torch.cat([task.support, task.query], 1)[0].flatten(1).double().numpy()
    weights = rbf_kernel(x / 0.8, gamma=0.5 / 54)
    rank = (-weights).argsort(1).argsort(1)
    weights = weights * (np.minimum(rank, rank.T) < neighbors)
    none = np.zeros_like(weights)
    cover = np.block([[none, weights], [weights, none]])
    y = np.concatenate([task.support_y[0].numpy(), np.full(9, -1)])
    peer = LabelSpreading(kernel=lambda a, b: cover.copy(), alpha=0.9, max_iter=100_000, tol=1e-10)
    theirs = peer.fit(np.arange(2 * len(y))[:, None], np.concatenate([y, y])).label_distributions_[len(y) - 9 : len(y)]
    ours = tpn(sigma=0.8, alpha=0.9, neighbors=neighbors).classify(task).logits[0]
    ours = ours / ours.sum(-1, keepdim=True)
    torch.testing.assert_close(ours, torch.from_numpy(theirs).float(), atol=1e-5, rtol=0)


def test_with_alpha_zero_no_query_learns_anything():
    task = random_task(item=MAP)
    assert torch.equal(tpn(alpha=0.0).classify(task).logits, torch.zeros(3, 5, 4))


def test_neighbors_have_no_effect_where_nothing_spreads():
    assert list(tpn(alpha=0.0).without_effect) == ["neighbors"]
    assert tpn(alpha=0.1).without_effect == {}


def test_a_query_that_repeats_a_support_item_gets_its_class_and_its_scores_where_both_are_labeled_alike():
    task = random_task(item=MAP, n_shot=1, n_query=4)
    repeated = dataclasses.replace(task, query=task.support)
    logits = tpn(alpha=0.5, sigma=0.3).classify(repeated).logits
    assert torch.equal(logits.argmax(-1), task.support_y)
    # Twice the same support: the graph cannot tell the twins apart, and a query gets from them what it gets from either.
    twins = dataclasses.replace(task, support=task.support.repeat(1, 2, 1, 1, 1), support_y=task.support_y.repeat(1, 2))
    half = dataclasses.replace(twins, support_y=torch.cat([task.support_y, (task.support_y + 1) % 4], 1))
    learner = tpn(alpha=0.5, sigma=0.7)
    both, split = learner.classify(twins).logits, learner.classify(half).logits
    torch.testing.assert_close(split, (both + both.roll(1, -1)) / 2)


def test_training_reaches_the_backbone_and_the_length_scale():
    torch.manual_seed(0)
    learner = TPN(Conv4(1, 28, (8, 8), output="map")).train()
    task = random_task(item=(1, 28, 28))
    learner(task).loss(Episode(task, torch.arange(5).expand(3, -1) % 4, torch.arange(4).expand(3, -1))).sum().backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("g", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_answers_and_gradients_are_finite_whatever_the_length_scale(g):
    learner = tpn(neighbors=4)
    for items in (random_task(item=MAP), random_task(item=MAP).map(torch.ones_like)):
        nn.init.constant_(learner.length_scale.layers[-1].bias, g)
        leaf = items.query.clone().requires_grad_()
        task = dataclasses.replace(items, query=leaf)
        prediction = learner.classify(task)
        assert prediction.logits.isfinite().all()
        episode = Episode(task, torch.arange(5).expand(3, -1) % 4, torch.arange(4).expand(3, -1))
        learner.zero_grad()
        prediction.loss(episode).sum().backward()
        for tensor in (leaf, *learner.parameters()):
            assert tensor.grad.isfinite().all()


def test_where_all_items_are_equal_all_queries_get_the_same():
    task = random_task(item=MAP).map(torch.ones_like)
    logits = tpn().classify(task).logits
    torch.testing.assert_close(logits, logits[:, :1, :1].expand_as(logits))
    assert (logits > 0).all()


def test_length_scales_of_the_published_network_and_of_other_maps():
    assert sum(p.numel() for p in LengthScale(64, 5, 5).parameters()) == 37_684
    for shape in ((64, 5, 5), (3, 1, 1), (4, 7, 7), (5, 2, 6), (2, 19, 19)):
        sigma = LengthScale(*shape).eval()(torch.randn(3, *shape))
        assert sigma.shape == (3,)
        assert (sigma > 0).all()
    torch.testing.assert_close(tpn(sigma=0.7).length_scale(torch.randn(4, *MAP)), torch.full((4,), 0.7))


def test_needs_maps():
    with pytest.raises(ValueError, match=r"looks at maps .*of shape \[64\]: take backbone\.output=map"):
        TPN(Conv4(1, 28))


@pytest.mark.parametrize(("setting", "value"), [("neighbors", 0), ("alpha", 1.0), ("alpha", -0.5)])
def test_settings_are_checked(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be .*, at least"):
        TPN(Features(*MAP), **{setting: value})


def test_its_configuration_asks_for_maps_and_for_tasks_as_they_are_tested():
    cfg = compose_config("train", ["learner=tpn"])
    assert cfg.backbone.output == "map"
    assert (cfg.task.train.n_way, cfg.task.train.n_query) == (5, 15)
