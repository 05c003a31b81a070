import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import cross_entropy

from episodic import Episode
from episodic.core.functional.implicit import minimize
from episodic.core.regularizers.sse import SSE
from episodic.learners import base_classifier as base_classifier_module
from episodic.learners.base_classifier import BaseClassifier
from tests.conftest import Features, NextRow, random_task
from tests.learners.laws import check_laws


def base_classifier(seed=0, **settings):
    torch.manual_seed(seed)
    return BaseClassifier(Features(6), n_classes=7, **{"weight_decay": 0.01, **settings}).eval()


def test_laws():
    check_laws(base_classifier())


def test_few_shot_answers_are_those_of_scikit_learns_logistic_regression():
    task = random_task(imbalanced=True)
    logits = base_classifier().classify(task).logits
    for e in range(3):
        x, y = (
            np.pad(z.double().numpy(), ((0, 0), (0, 1)), constant_values=1) for z in (task.support[e], task.query[e])
        )
        # sum of losses + |w|^2 / (2 C); the bias is among the weights here, so it is decayed as well
        peer = LogisticRegression(C=1 / (0.01 * len(x)), fit_intercept=False, solver="newton-cg", tol=1e-10)
        expected = peer.fit(x, task.support_y[e].numpy()).predict_log_proba(y)
        np.testing.assert_allclose(logits[e].log_softmax(-1).detach().numpy(), expected, atol=1e-4)


def test_incremental_answers_minimize_the_joint_loss_written_out():
    learner, task = base_classifier(), dataclasses.replace(random_task(), n_base=7)
    logits = learner.classify(task).logits
    assert logits.shape == (3, 5, 4 + 7)
    torch.testing.assert_close(logits[..., 4:], learner.base(task.query))
    for e in range(3):
        w, b = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(4))
        optimizer = torch.optim.LBFGS([w, b], max_iter=2000, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

        def closure(w=w, b=b, optimizer=optimizer, e=e):
            optimizer.zero_grad()
            joint = torch.cat([task.support[e] @ w.T + b, learner.base(task.support[e]).detach()], dim=1)
            loss = cross_entropy(joint, task.support_y[e]) + 0.005 * (w.square().sum() + b.square().sum())
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(logits[e, :, :4], task.query[e] @ w.T + b, atol=1e-3, rtol=1e-3)


def test_training_is_by_heart_over_all_classes_for_every_item():
    learner = base_classifier().train()
    class_ids = torch.tensor([[6, 2, 0, 1]] * 3)
    task = dataclasses.replace(random_task(imbalanced=True), class_ids=class_ids, n_base=7)
    query_y = torch.tensor([[0, 3, 1, 4 + 5, 4 + 3]] * 3)  # the last two are base classes 5 and 3
    prediction = learner.classify(task)
    loss = prediction.loss(Episode(task, query_y, class_ids))
    for e in range(3):
        known = [*class_ids[e].tolist(), *range(7)]
        each = [cross_entropy(learner.base(x), class_ids[e, y]) for x, y in zip(task.support[e], task.support_y[e])]  # noqa: B905
        each += [cross_entropy(learner.base(x), torch.tensor(known[y])) for x, y in zip(task.query[e], query_y[e])]  # noqa: B905
        torch.testing.assert_close(loss[e], torch.stack(each).mean())
    scores = learner.base(task.query)
    torch.testing.assert_close(prediction.logits[..., :4], scores[..., [6, 2, 0, 1]])
    played = torch.tensor([True, True, True, False, False, False, True])
    assert prediction.logits[..., 4:][..., played].isneginf().all()
    torch.testing.assert_close(prediction.logits[..., 4:][..., ~played], scores[..., ~played])
    loss.sum().backward()
    assert learner.base.weight.grad.abs().sum() > 0


def test_it_is_solved_to_convergence_at_the_published_weight_decay_too(monkeypatch):
    """In many dimensions the minimum is flat: the answers must be those of a gradient ten thousand times smaller."""

    class Wide(nn.Identity):
        shape = (400,)

    torch.manual_seed(0)
    learner = BaseClassifier(Wide(), n_classes=64).eval()
    task = dataclasses.replace(random_task(item=(400,), n_shot=5).map(torch.relu), n_base=64)
    before = learner.classify(task).logits.log_softmax(-1)
    monkeypatch.setattr(base_classifier_module, "minimize", lambda *given, tolerance: minimize(*given, tolerance=1e-13))
    exact = learner.classify(task).logits.log_softmax(-1)
    torch.testing.assert_close(before, exact, rtol=1e-3, atol=1e-3)


def test_it_answers_the_same_where_gradients_are_off():
    learner, task = base_classifier(), dataclasses.replace(random_task(), n_base=7)
    expected = learner.classify(task).logits
    with torch.inference_mode():
        inside = dataclasses.replace(task, support=task.support + 0, support_y=task.support_y + 0, query=task.query + 0)
        torch.testing.assert_close(learner.classify(inside).logits, expected)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="weight_decay must be a number, above 0"):
        base_classifier(weight_decay=0)
    with pytest.raises(ValueError, match="the task has 9 base classes, but the learner has 7"):
        base_classifier().classify(dataclasses.replace(random_task(), n_base=9))


def test_exchanged_rows_are_those_of_the_labels_drawn_in_training():
    task = dataclasses.replace(random_task(), class_ids=torch.tensor([[6, 2, 0, 1]] * 3))
    episode = Episode(task, torch.tensor([[0, 3, 1, 1, 2]] * 3), task.class_ids)
    learner, rolled = base_classifier(label_swap=NextRow(7)).train(), base_classifier().train()
    with torch.no_grad():
        for mine, its in zip(rolled.base.parameters(), learner.base.parameters(), strict=True):
            mine.copy_(its.roll(-1, 0))
    found, expected = (each.classify(task).loss(episode) for each in (learner, rolled))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="the exchange is of 6 rows, the table has 7"):
        base_classifier(label_swap=SSE(6, 0.1))
