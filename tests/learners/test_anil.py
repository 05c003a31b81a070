import dataclasses
import sys

import learn2learn
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from episodic import EpisodeSampler
from episodic.config.compose import compose_config
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Normalize
from episodic.evaluate.scoring import evaluate
from episodic.learners.anil import ANIL
from episodic.learners.maml import MAML
from episodic.run.device import Hardware
from tests.conftest import Features, random_store, random_task
from tests.learners.laws import check_laws


class Body(nn.Sequential):
    shape = (3,)

    def __init__(self):
        super().__init__(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh())


def anil(backbone=lambda: Features(6), seed=0, **settings):
    torch.manual_seed(seed)
    return ANIL(backbone(), 4, **{"inner_lr": 0.3, "inner_steps": 3, "test_inner_steps": 2, **settings})


def zero_head(learner):
    nn.init.zeros_(learner.head.weight), nn.init.zeros_(learner.head.bias)
    return learner


def query_labels(task):
    return torch.randint(task.n_way, task.query.shape[:2], generator=torch.Generator().manual_seed(3))


def query_loss(logits, task):
    return cross_entropy(logits.flatten(0, 1), query_labels(task).flatten())


def descend(weight, bias, x, y, steps):
    """Softmax regression by gradient descent in NumPy: the mean over items of (p - onehot(y)) x."""
    for _ in range(steps):
        scores = x @ weight.T + bias
        p = np.exp(scores - scores.max(1, keepdims=True))
        error = (p / p.sum(1, keepdims=True) - np.eye(len(bias))[y]) / len(x)
        weight, bias = weight - 0.3 * error.T @ x, bias - 0.3 * error.sum(0)
    return weight, bias


def test_laws_of_a_head_that_starts_at_zero():
    check_laws(zero_head(anil()).eval())


def test_a_head_with_rows_of_its_own_depends_on_how_the_classes_are_numbered():
    learner, task = anil().eval(), random_task()
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = dataclasses.replace(task, support_y=new_name[task.support_y])
    assert not torch.allclose(learner(renamed).logits[..., new_name], learner(task).logits, atol=1e-2)
    before = learner(task).logits
    with torch.no_grad():  # unless its rows are renamed with them
        for parameter in learner.head.parameters():
            parameter.copy_(parameter[new_name.argsort()])
    torch.testing.assert_close(learner(renamed).logits[..., new_name], before)


@pytest.mark.parametrize("training", [False, True])
def test_steps_are_those_of_softmax_regression_in_numpy(training):
    learner, task = anil().double().train(training), random_task(imbalanced=True).map(Tensor.double)
    weight, bias = (p.detach().numpy() for p in (learner.head.weight, learner.head.bias))
    logits = learner.classify(task).logits.detach().numpy()
    for e in range(3):
        w, b = descend(weight, bias, task.support[e].numpy(), task.support_y[e].numpy(), 3 if training else 2)
        np.testing.assert_allclose(logits[e], task.query[e].numpy() @ w.T + b, rtol=1e-9, atol=1e-12)


def test_one_step_from_zero_by_hand():
    # One item of each of two classes, at +1 and -1: p = 1/2, so the rows move by +-0.3 / 2 and the biases stay.
    learner, task = zero_head(anil(inner_steps=1)).train(), random_task(episodes=1, n_way=4, n_shot=1, n_query=1)
    support = torch.zeros(1, 4, 6)
    support[0, :, 0] = torch.tensor([1.0, -1.0, 0.0, 0.0])
    query = torch.zeros(1, 1, 6)
    query[..., 0] = 2.0
    logits = learner.classify(dataclasses.replace(task, support=support, query=query)).logits
    # Rows: 0.3 / 4 * sum_i (onehot - 1/4) x_i = 0.075 * (1, -1, 0, 0).
    torch.testing.assert_close(logits[0, 0], torch.tensor([0.15, -0.15, 0.0, 0.0]))


@pytest.mark.parametrize("first_order", [False, True])
def test_is_maml_without_the_inner_updates_of_the_body(first_order):
    """MAML by torch.func with a rate for each weight, 0 in the body: answers and meta-gradient."""
    learner, task = (
        anil(Body, first_order=first_order).double().train(),
        random_task(imbalanced=True).map(Tensor.double),
    )
    net = nn.Sequential(learner.backbone, learner.head)
    start = dict(net.named_parameters())
    rates = {name: 0.3 * name.startswith("1.") for name in start}

    def support_loss(weights, x, y):
        return cross_entropy(functional_call(net, weights, x), y)

    expected = []
    for x, y, query in zip(task.support, task.support_y, task.query, strict=True):
        weights = start
        for _ in range(3):
            slopes = grad(support_loss)(weights, x, y)
            weights = {n: w - rates[n] * (slopes[n].detach() if first_order else slopes[n]) for n, w in weights.items()}
        expected.append(functional_call(net, weights, query))
    expected, logits = torch.stack(expected), learner.classify(task.map(learner.backbone)).logits
    torch.testing.assert_close(logits, expected)
    slopes = torch.autograd.grad(query_loss(expected, task), list(start.values()))
    ours = torch.autograd.grad(query_loss(logits, task), list(learner.parameters()))
    torch.testing.assert_close(list(ours), list(slopes))


@pytest.mark.parametrize("first_order", [False, True])
def test_training_is_the_plain_loop_of_learn2learns_example(first_order):
    learner, task = anil(Body, first_order=first_order).train(), random_task(imbalanced=True)
    head = learn2learn.algorithms.MAML(learner.head, lr=0.3, first_order=first_order)
    error = 0.0
    for e in range(3):
        fast = head.clone()
        support, query = learner.backbone(task.support[e]), learner.backbone(task.query[e])
        for _ in range(3):
            fast.adapt(cross_entropy(fast(support), task.support_y[e]))
        error = error + cross_entropy(fast(query), query_labels(task)[e]) / 3
    slopes = torch.autograd.grad(error, [*learner.backbone.parameters(), *head.parameters()])
    loss = query_loss(learner(task).logits, task)
    torch.testing.assert_close(loss, error)
    torch.testing.assert_close(list(torch.autograd.grad(loss, list(learner.parameters()))), list(slopes))


def test_is_maml_where_the_body_is_frozen():
    learner, task = anil(Body).eval(), random_task()
    maml = MAML(learner.backbone.requires_grad_(False), 4, inner_lr=0.3, test_inner_steps=2).eval()
    maml.head = learner.head
    torch.testing.assert_close(learner(task).logits, maml(task).logits)


def test_the_body_learns_by_support_and_query_unless_by_first_order():
    task = random_task()
    for first_order in (False, True):
        features = task.map(lambda items: items.clone().requires_grad_())
        features = dataclasses.replace(
            features, support=features.support.detach().requires_grad_(), query=features.query.detach().requires_grad_()
        )
        loss = query_loss(anil(first_order=first_order).train().classify(features).logits, task)
        by_support, by_query = torch.autograd.grad(loss, [features.support, features.query], allow_unused=True)
        assert by_query.abs().max() > 0
        assert (by_support is None) == first_order


def test_without_steps_it_is_the_linear_head():
    learner, task = anil(test_inner_steps=0).eval(), random_task()
    torch.testing.assert_close(learner(task).logits, learner.head(task.query))


def test_settings_without_effect():
    assert anil().without_effect == {}
    assert list(anil(inner_steps=0).without_effect) == ["first_order"]
    assert list(anil(inner_steps=0, test_inner_steps=0).without_effect) == ["first_order", "inner_lr"]


def test_a_support_given_twice_changes_nothing():
    learner, task = anil().eval(), random_task(imbalanced=True)
    twice = dataclasses.replace(
        task,
        support=torch.cat([task.support, task.support], dim=1),
        support_y=torch.cat([task.support_y, task.support_y], dim=1),
    )
    torch.testing.assert_close(learner(twice).logits, learner(task).logits)


def test_maps_are_flattened():
    flat = random_task()
    learner, maps = anil(lambda: Features(2, 3, 1)).eval(), flat.map(lambda items: items.view(-1, 2, 3, 1))
    torch.testing.assert_close(learner(maps).logits, anil().eval()(flat).logits)


def test_works_in_inference_mode_and_leaves_no_trace():
    learner, task = anil(Body).eval(), random_task()
    expected = learner(task).logits.detach()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with torch.inference_mode():
        logits = learner(task).logits
        classified = learner.classify(task.map(learner.backbone)).logits
    assert not logits.requires_grad
    torch.testing.assert_close(logits.clone(), expected)
    torch.testing.assert_close(classified.clone(), expected)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in learner.parameters())


def test_is_scored_by_evaluate_on_features_computed_once():
    store = random_store(separation=2.0)
    sampler = EpisodeSampler(store.labels.numpy(), n_way=4, n_shot=2, n_query=3, episodes=40)
    normalize, hardware = Normalize([0.5], [0.2]), Hardware(torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    learner = zero_head(ANIL(Conv4(1, 16, widths=(8, 8)), 4))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    images = []
    learner.backbone.register_forward_hook(lambda module, args, output: images.append(len(output)))
    evaluation = evaluate(learner, store, sampler, normalize, hardware)
    assert sum(images) == len(store)
    assert not evaluation.transductive
    assert evaluation.interval.mean > 0.4  # chance is 0.25; patterns so far apart need no meta-training
    np.testing.assert_array_equal(
        evaluation.accuracies, evaluate(learner, store, sampler, normalize, hardware, cached=False).accuracies
    )
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_head_stays_in_float32_under_autocast():
    learner, task = anil(), random_task()
    exact = learner(task).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(learner(task).logits, exact)


def test_training_takes_episodes_of_the_shape_of_the_test():
    cfg = compose_config("train", ["learner=anil", "task=omniglot_5w1s"])
    assert (cfg.task.train.n_way, cfg.task.train.n_shot, cfg.task.train.n_query) == (5, 1, 15)
    assert cfg.learner.n_way == 5


def test_a_task_of_another_number_of_ways_is_refused():
    with pytest.raises(ValueError, match=r"learner=anil was made for tasks of 4 ways .* one of 3: .*task\.n_way=3"):
        anil()(random_task(n_way=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": 1}, "n_way must be an integer, at least 2, the same for all tasks of learner=anil, got 1"),
        ({"inner_lr": -0.1}, "inner_lr must be a number, above 0 .*, got -0.1"),
        ({"inner_steps": -1}, "^inner_steps must be an integer, at least 0, got -1"),
        ({"test_inner_steps": -2}, "test_inner_steps must be an integer, at least 0, got -2"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ANIL(Features(6), **{"n_way": 4, **settings})


def test_without_learn2learn_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.algorithms", None)
    with pytest.raises(ImportError, match=r"^learner=anil needs learn2learn: pip install 'episodic\[learn2learn\]' \("):
        ANIL(Features(6), 4)
