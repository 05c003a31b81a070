import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, linear

from episodic import Task
from episodic.core.backbones.conv4 import Conv4
from episodic.learners import attention_attractor
from episodic.learners.attention_attractor import AttentionAttractor, Attractor
from episodic.learners.base_classifier import BaseClassifier
from tests.conftest import Features, NextRow, random_task
from tests.learners.laws import check_laws


def attractor_network(seed=0, **settings):
    torch.manual_seed(seed)
    learner = AttentionAttractor(Features(6), n_classes=7, **{"hidden": 3, **settings}).eval()
    with torch.no_grad():  # far enough from the start for attention to matter
        for module in learner.modules():
            if isinstance(module, Attractor):
                module.log_precision.uniform_(-2, 0)
                for parameter in module.value.parameters():
                    parameter.normal_(std=0.5)
        for parameter in learner.first.parameters():
            parameter.normal_(std=0.5)
    return learner


def incremental_task(training=False, **shape) -> Task:
    task = dataclasses.replace(random_task(**shape), n_base=7)
    return dataclasses.replace(task, class_ids=torch.tensor([[6, 2, 0, 1]] * 3)) if training else task


@pytest.mark.parametrize("fast", ["logistic", "mlp"])
def test_laws(fast):
    check_laws(attractor_network(fast=fast))


def where_it_pulls(learner, attractor, keys, base, mask=None):
    """The attention formula, key by key."""
    rows = []
    sharpness = learner.episode_sharpness if attractor is learner.layer else learner.class_sharpness
    values = [attractor.value(torch.tanh(learner.first(w))) for w in base]
    for key in keys:
        scores = torch.stack([sharpness * cosine_similarity(key, w, dim=0) for w in base])
        if mask is not None:
            scores[mask] = float("-inf")
        a = scores.softmax(0)
        rows.append(sum(a[k] * values[k] for k in range(len(base))) + attractor.shift)
    return torch.stack(rows)


def test_answers_minimize_the_inner_problem_written_out():
    """Joint cross-entropy, weight decay and attractor for one episode at a time, by torch's L-BFGS."""
    learner, task = attractor_network(weight_decay=0.01), incremental_task(imbalanced=True)
    logits = learner.classify(task).logits
    assert logits.shape == (3, 5, 4 + 7)
    base = learner.base.weight
    for e in range(3):
        x, y = task.support[e], task.support_y[e]
        means = torch.stack([x[y == n].mean(0) for n in range(4)])
        u = where_it_pulls(learner, learner.linear, means, base).detach()
        w = nn.Parameter(torch.zeros(4, 7))
        optimizer = torch.optim.LBFGS([w], max_iter=2000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def closure(w=w, x=x, y=y, u=u, optimizer=optimizer):
            optimizer.zero_grad()
            joint = torch.cat([x @ w[:, :6].T + w[:, 6], learner.base(x).detach()], dim=1)
            pull = sum((learner.linear.log_precision.exp() * (w[n] - u[n]) ** 2).sum() for n in range(4)) / 4
            loss = cross_entropy(joint, y) + 0.005 * w.square().sum() + pull
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(logits[e, :, :4], task.query[e] @ w[:, :6].T + w[:, 6], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(logits[e, :, 4:], learner.base(task.query[e]))


def test_a_strong_attractor_decides_alone_and_a_weak_one_leaves_plain_regression():
    learner, task = attractor_network(weight_decay=0.01), incremental_task()
    nn.init.constant_(learner.linear.log_precision, 30)
    means = task.support.unflatten(1, (4, 2)).mean(2)
    logits = learner.classify(task).logits
    for e in range(3):
        u = where_it_pulls(learner, learner.linear, means[e], learner.base.weight)
        torch.testing.assert_close(logits[e, :, :4], linear(task.query[e], u[:, :6], u[:, 6]), atol=1e-4, rtol=1e-4)
    nn.init.constant_(learner.linear.log_precision, -30)
    plain = BaseClassifier(Features(6), 7, weight_decay=0.01).eval()
    plain.base.load_state_dict(learner.base.state_dict())
    torch.testing.assert_close(learner.classify(task).logits, plain.classify(task).logits, atol=1e-4, rtol=1e-4)


def test_an_even_attractor_at_zero_without_base_classes_is_scikit_learns_logistic_regression():
    learner, task = attractor_network(weight_decay=0.01), random_task()
    for parameter in (*learner.linear.value.parameters(), learner.linear.shift):
        nn.init.zeros_(parameter)
    nn.init.constant_(learner.linear.log_precision, math.log(0.4))
    decay = 0.01 + 2 * 0.4 / 4  # R is a mean over the 4 classes
    logits = learner.classify(task).logits
    for e in range(3):
        x, q = (
            np.pad(z.double().numpy(), ((0, 0), (0, 1)), constant_values=1) for z in (task.support[e], task.query[e])
        )
        peer = LogisticRegression(C=1 / (decay * len(x)), fit_intercept=False, solver="newton-cg", tol=1e-10)
        expected = peer.fit(x, task.support_y[e].numpy()).predict_log_proba(q)
        np.testing.assert_allclose(logits[e].log_softmax(-1).detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("fast", ["logistic", "mlp"])
def test_the_meta_gradient_is_that_of_unrolled_gradient_descent(fast):
    """Without damping: the query loss differentiated through 600 steps of plain gradient descent, step by step."""
    learner = attractor_network(fast=fast, damping=0.0, weight_decay=0.1)
    task = incremental_task(training=True, n_query=3)
    task = dataclasses.replace(
        task, **{k: getattr(task, k)[:1] for k in ("support", "support_y", "query", "class_ids")}
    )
    y = torch.tensor([[0, 2, 4 + 5]])
    loss = cross_entropy(learner.classify(task).logits.flatten(0, 1), y.flatten())
    names = [name for name, p in learner.named_parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss, [dict(learner.named_parameters())[name] for name in names])

    double = attractor_network(fast=fast, damping=0.0, weight_decay=0.1).double()
    double.base.weight.requires_grad_(False)
    base, played = double.base.weight, [6, 2, 0, 1]
    hidden = 0 if fast == "logistic" else 3
    groups = [double.linear, *([double.output, double.layer] if hidden else [])]
    x, q = task.support[0].double(), task.query[0].double()
    means = x.unflatten(0, (4, 2)).mean(1)
    pulls = [where_it_pulls(double, groups[0], means, base, played)]
    if hidden:
        pulls += [where_it_pulls(double, groups[1], means, base, played)]
        pulls += [where_it_pulls(double, groups[2], x.mean(0, keepdim=True), base, played).expand(3, -1)]
    parts = [u.detach() for u in pulls]
    if hidden:
        parts[2] = double.layer_start.clone()
    parts = [part.requires_grad_() for part in parts]

    def joint(items, parts):
        one = torch.cat([items, items.new_ones(len(items), 1)], dim=1)
        own = one @ parts[0].T
        if hidden:
            units = torch.tanh(one @ parts[2].T)
            own = own + units @ parts[1][:, :3].T + parts[1][:, 3]
        known = double.base(items).index_fill(1, torch.tensor(played), float("-inf"))
        return torch.cat([own, known], dim=1)

    for _ in range(600):
        inner = cross_entropy(joint(x, parts), task.support_y[0])
        inner = inner + 0.05 * sum(part.square().sum() for part in parts)
        for group, part, u in zip(groups, parts, pulls, strict=True):
            inner = inner + (group.log_precision.exp() * (part - u) ** 2).sum() / len(part)
        step = torch.autograd.grad(inner, parts, create_graph=True)
        parts = [part - 0.2 * g for part, g in zip(parts, step, strict=True)]
    unrolled = cross_entropy(joint(q, parts), y[0])
    assert unrolled.item() == pytest.approx(loss.item(), abs=5e-5)
    parameters = dict(double.named_parameters())
    expected = torch.autograd.grad(unrolled, [parameters[name] for name in names])
    for name, a, b in zip(names, ours, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_base_classes_that_play_new_ones_are_neither_answers_nor_attended_to():
    learner, task = attractor_network(), incremental_task(training=True)
    before = learner.classify(task).logits
    played = torch.tensor([6, 2, 0, 1])
    assert before[..., 4 + played].isneginf().all()
    with torch.no_grad():
        learner.base.weight[played] = 9.0
        learner.base.bias[played] = -3.0
    torch.testing.assert_close(learner.classify(task).logits, before)


def test_renaming_new_classes_moves_their_answers_and_leaves_the_base_classes():
    learner, task = attractor_network(), incremental_task()
    new_name = torch.tensor([2, 0, 3, 1])
    before = learner.classify(task).logits
    after = learner.classify(dataclasses.replace(task, support_y=new_name[task.support_y])).logits
    torch.testing.assert_close(after[..., new_name], before[..., :4], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[..., 4:], before[..., 4:])


def test_backbone_and_base_classifier_stay_as_they_are():
    learner = AttentionAttractor(Conv4(1, 16, (4, 4)), n_classes=7)
    assert not learner.train().backbone.training
    assert learner.linear.training
    task = dataclasses.replace(random_task(item=(1, 16, 16)), class_ids=torch.tensor([[6, 2, 0, 1]] * 3))
    learner(task).logits.logsumexp(-1).sum().backward()
    for name, parameter in learner.named_parameters():
        assert (parameter.grad is None) == name.startswith(("backbone", "base.")), name


@pytest.mark.parametrize("fast", ["logistic", "mlp"])
def test_it_answers_the_same_where_gradients_are_off(fast):
    learner, task = attractor_network(fast=fast), incremental_task()
    expected = learner.classify(task).logits
    with torch.inference_mode():
        inside = dataclasses.replace(task, support=task.support + 0, support_y=task.support_y + 0, query=task.query + 0)
        torch.testing.assert_close(learner.classify(inside).logits, expected.detach())


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_kind_of_fast_weights_is_refused():
    with pytest.raises(ValueError, match="fast must be one of logistic, mlp, got 'slow'"):
        attractor_network(fast="slow")


def test_hidden_units_have_no_effect_in_logistic_regression():
    assert list(attractor_network(fast="logistic").without_effect) == ["hidden"]
    assert attractor_network(fast="mlp").without_effect == {}
    few, many = (attractor_network(hidden=hidden).state_dict() for hidden in (3, 30))
    assert all(torch.equal(few[name], many[name]) for name in few.keys() | many.keys())


def test_keys_are_dropped_out_in_training_only():
    learner, task = attractor_network(), incremental_task(training=True)
    assert torch.equal(learner.classify(task).logits, learner.classify(task).logits)
    learner.train()
    first, second = learner.classify(task).logits[..., :4], learner.classify(task).logits[..., :4]
    assert not torch.allclose(first, second, atol=1e-4)
    assert torch.allclose(first, second, atol=1.0)  # a tenth of the features, not all


@pytest.mark.parametrize(("dim", "count"), [(64, 12_315), (640, 102_171)])
def test_the_mlp_has_as_many_learned_numbers_as_the_released_one(dim, count):
    learner = AttentionAttractor(Features(dim), n_classes=64, fast="mlp")
    assert sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad) == count


@pytest.mark.parametrize(("n_shot", "strength"), [(1, 0.1), (5, 0.01), ((1, 5), 0.01)])
@pytest.mark.parametrize("fast", ["logistic", "mlp"])
def test_the_pull_starts_weaker_where_there_are_more_shots(fast, n_shot, strength):
    learner = AttentionAttractor(Features(6), n_classes=7, fast=fast, n_shot=n_shot)
    for module in learner.modules():
        if isinstance(module, Attractor):
            torch.testing.assert_close(module.log_precision.exp(), torch.full_like(module.log_precision, strength))


def test_an_episode_of_all_base_classes_leaves_nothing_to_attend_to():
    learner = AttentionAttractor(Features(6), n_classes=4)
    task = dataclasses.replace(random_task(), class_ids=torch.tensor([[3, 2, 0, 1]] * 3))
    with pytest.raises(ValueError, match="an episode has all 4 training classes"):
        learner.classify(task)


def test_exchanged_rows_are_attended_to_in_training_and_play_no_new_classes(monkeypatch):
    monkeypatch.setattr(nn.functional, "dropout", lambda keys, *_: keys)
    task = incremental_task(training=True)
    learner, plain = attractor_network(label_swap=NextRow(7)), attractor_network()
    seen = []
    attend = attention_attractor.attend
    monkeypatch.setattr(attention_attractor, "attend", lambda *given: seen.append(given) or attend(*given))
    learner.train().classify(task)
    plain.train().classify(task)
    (_, rows, mask, _), (_, base, forgotten, _) = seen
    assert torch.equal(rows, base.roll(-1, 0))
    assert torch.equal(mask, forgotten.roll(-1, 1))
    assert torch.equal(learner.eval().classify(task).logits, plain.eval().classify(task).logits)
