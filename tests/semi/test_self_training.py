import dataclasses

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.semi_supervised import SelfTrainingClassifier
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from episodic import Episode, Task
from episodic.learners.learner import Capabilities
from episodic.learners.matching import Matching
from episodic.learners.prototypical import Prototypical
from episodic.learners.tpn import TPN
from episodic.semi import _weighting
from episodic.semi._weighting import SoftWeighting
from episodic.semi.self_training import STOPPED, LinearFit, SelfTraining
from tests.conftest import Features, random_task
from tests.semi.laws import check_wrapper_laws, tasks


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)  # of the network


def plain(**settings) -> SelfTraining:
    return SelfTraining(Prototypical(Features(6), temperature=1.0), **{"weighting": False, **settings}).eval()


@pytest.mark.parametrize(
    "settings",
    [{}, {"weighting": False}, {"weighting": False, "threshold": 0.6, "most_confident": None, "stages": 4}],
)
def test_laws(settings):
    check_wrapper_laws(
        lambda learner: SelfTraining(learner, **settings), lambda learner: SelfTraining(learner, stages=0).eval()
    )


def test_laws_on_maps():
    check_wrapper_laws(SelfTraining, lambda learner: SelfTraining(learner, stages=0), item=(2, 2, 2))


def slow(wrapper: SelfTraining, task: Task, e: int, weights: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Episode `e` by itself: W with autograd and SGD, selection class by class."""
    support, y, unlabeled, query = task.support[e], task.support_y[e], task.unlabeled[e], task.query[e]
    centers = torch.stack([support[y == c].mean(0) for c in range(4)])
    items = torch.cat([support, unlabeled])
    scale = (items - items.mean(0)).square().sum(-1).mean().sqrt()
    g = -(torch.cdist(items, centers) ** 2)
    spread = (g - g.mean(-1, keepdim=True)).square().mean().sqrt()

    def f(x, w):
        return -(torch.cdist(x, centers) ** 2) + spread * ((x - items.mean(0)) / scale) @ w

    def fit(labels):
        w = nn.Parameter(torch.zeros(6, 4))
        optimizer = torch.optim.SGD([w], lr=wrapper.lr)
        kept = [j for j, label in enumerate(labels) if label >= 0]
        x, v = torch.cat([support, unlabeled[kept]]), torch.cat([torch.ones(len(support), 4), weights[kept]])
        target = torch.cat([y, torch.tensor(labels)[kept]])
        for step in range(wrapper.retrain_steps + wrapper.finetune_steps):
            of = slice(None) if step < wrapper.retrain_steps else slice(len(support))
            optimizer.zero_grad()
            cross_entropy(v[of] * f(x[of], w) / spread, target[of]).backward()
            optimizer.step()
        return w.detach()

    labels = [-1] * len(unlabeled)
    w = fit(labels)
    for _ in range(wrapper.stages):
        probability = f(unlabeled, w).double().softmax(-1)
        labels = [-1] * len(unlabeled)
        for c in range(4):
            mine = [j for j, row in enumerate(probability) if row.argmax() == c]
            mine.sort(key=lambda j: -probability[j, c])
            share = wrapper.most_confident
            for j in mine if share is None else mine[: round(share * len(unlabeled) / 4)]:
                labels[j] = c
        w = fit(labels)
    return f(query, w), labels


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": 1, "most_confident": None, "finetune_steps": 0},
        {"stages": 1, "finetune_steps": 0, "weighting": True},
        {"stages": 3, "most_confident": 0.4},
        {"stages": 3, "most_confident": 0.8, "retrain_steps": 7, "finetune_steps": 4, "lr": 1.5, "weighting": True},
        {"stages": 2, "retrain_steps": 0, "finetune_steps": 5},  # fine-tuning on the support, no more
    ],
)
def test_is_what_a_plain_loop_with_autograd_gives(settings):
    for task in tasks():
        wrapper = plain(**settings)
        weights = torch.ones(3, 11, 4)
        if wrapper.weighting is not None:
            nn.init.normal_(wrapper.weighting.rest[-1].weight, std=5)
            weights = 4 * wrapper.weighting(task.unlabeled, task.support, task.support_y, 4).detach()
            torch.testing.assert_close(weights.mean(-1), torch.ones(3, 11))
            assert weights.std() > 0.1
        found, taken = wrapper.self_train(task), wrapper.classify(task).unlabeled
        for e in range(3):
            logits, labels = slow(wrapper, task, e, weights[e])
            assert found.labels[e].tolist() == labels
            torch.testing.assert_close(found.logits[e], logits, atol=1e-3, rtol=1e-4)
            for j, label in enumerate(labels):
                expected = torch.zeros(4)
                if label >= 0:
                    expected[label] = weights[e, j, label] / (1 if wrapper.weighting is None else 4)
                torch.testing.assert_close(taken[e, j], expected)


def test_without_steps_it_labels_by_the_learner_and_leaves_its_answers():
    task = random_task(n_unlabeled=9)
    wrapper = plain(retrain_steps=0, finetune_steps=0, most_confident=None)
    trained = wrapper.self_train(task)
    torch.testing.assert_close(trained.logits, wrapper.learner.classify(task).logits)
    asked = dataclasses.replace(task, query=task.unlabeled)
    assert torch.equal(trained.labels, wrapper.learner.classify(asked).logits.argmax(-1))


def test_an_undecided_network_weighs_all_classes_alike():
    """Then the logits of pseudo-labeled items are divided by n_way: 0.8020 for (2, 1, 0), which would be 0.4076."""
    network = SoftWeighting((6,)).eval()
    nn.init.zeros_(network.rest[-1].weight)
    task = random_task(n_way=3, n_unlabeled=4)
    w = network(task.unlabeled, task.support, task.support_y, 3)
    torch.testing.assert_close(w, torch.full((3, 4, 3), 1 / 3))

    logits = torch.tensor([[[2.0, 1.0, 0.0]]], requires_grad=True)
    for weight, loss in ((w[:1, :1], 0.8020), (torch.ones(1, 1, 3), 0.4076)):
        value = cross_entropy((weight * logits)[0], torch.tensor([0]))
        assert value.item() == pytest.approx(loss, abs=5e-5)
        (slope,) = torch.autograd.grad(value, logits)
        none, one = torch.zeros(1, 0, 3), torch.ones(1, 1, 1)
        fit = LinearFit(none, logits.detach(), one, none, torch.zeros(1, 0, 1), one)
        step = fit.descend(torch.tensor([[[1.0, 0.0, 0.0]]]), weight, 1)
        torch.testing.assert_close(step, -slope)


@pytest.mark.parametrize("item", [(6,), (3, 4, 5)])
def test_the_network_sees_each_item_beside_each_class(item, monkeypatch):
    """Against its layers applied to the concatenated pairs, one by one; and in pieces."""
    network = SoftWeighting(item).eval()
    task = random_task(n_unlabeled=5, item=item)
    found = network(task.unlabeled, task.support, task.support_y, 4)
    monkeypatch.setattr(_weighting, "PAIRS", 24)
    torch.testing.assert_close(network(task.unlabeled, task.support, task.support_y, 4), found)
    for e in range(3):
        for j in range(5):
            classes = [task.support[e][task.support_y[e] == c].mean(0) for c in range(4)]
            pairs = torch.stack([torch.cat([task.unlabeled[e, j], c]) for c in classes])
            maps = pairs if len(item) == 3 else pairs[..., None, None]
            scores = network.rest(network.first(maps))[:, 0]
            torch.testing.assert_close(found[e, j], scores.softmax(-1))


def outer_losses(wrapper, task):
    prediction = wrapper.classify(task)
    query_y = torch.arange(5).remainder(4).expand(3, -1)
    (term,) = prediction.auxiliary_losses.values()
    episode = Episode(task, query_y, torch.arange(4).expand(3, -1))
    main, values = prediction.own_loss(episode), term(episode)
    assert main.shape == values.shape == (3,)
    return main.mean(), values.mean()


@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_all_losses_see_one_scale(temperature):
    """Logits of any scale give the same fit, so they give the same losses and the same gradients of the network."""
    task, found = random_task(n_unlabeled=9), []
    wrapper = SelfTraining(Prototypical(Features(6), temperature=1.0), most_confident=None).eval()
    for learner in (wrapper.learner, Prototypical(Features(6), temperature=temperature)):
        other = SelfTraining(learner, most_confident=None).eval()
        other.load_state_dict(wrapper.state_dict())
        main, term = outer_losses(other, task)
        found.append([main, term, *torch.autograd.grad(term, other.weighting.rest[-1].weight)])
    for one, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled, one, atol=1e-5, rtol=1e-3)


def test_a_network_learns_which_class_an_item_is_of():
    """Two thirds of the unlabeled items are noise. After a few steps the network weighs the right class of the others most."""
    torch.manual_seed(0)
    wrapper = SelfTraining(Prototypical(Features(8)), most_confident=None).train()
    optimizer = torch.optim.Adam(wrapper.weighting.parameters(), lr=0.03)
    query_y = torch.arange(4).repeat(10).expand(16, -1)
    for _ in range(60):
        centers = 3 * torch.eye(4, 8).expand(16, -1, -1)
        draw = lambda y: centers.gather(1, y[..., None].expand(-1, -1, 8)) + 0.6 * torch.randn(*y.shape, 8)  # noqa: B023, E731
        support_y = torch.arange(4).expand(16, -1)
        unlabeled = torch.cat([draw(torch.arange(4).repeat(3).expand(16, -1)), 2 * torch.randn(16, 24, 8)], dim=1)
        task = Task(draw(support_y), support_y, draw(query_y), 4, unlabeled)
        (term,) = wrapper.classify(task).auxiliary_losses.values()
        optimizer.zero_grad()
        term(Episode(task, query_y, support_y)).mean().backward()
        optimizer.step()
    weights = wrapper.eval().weighting(task.unlabeled, task.support, support_y, 4)
    right = torch.arange(4).repeat(3).expand(16, -1)
    assert (weights[:, :12].argmax(-1) == right).float().mean() > 0.9


def test_the_share_that_is_kept_counts_the_tasks_own_classes():
    """Of 20 items of 4 classes and 20 more of others a share of 0.4 keeps 2 a class, as without the others."""
    task = random_task(n_unlabeled=40)
    kept = [
        one_hot(plain(most_confident=0.4, distractors=distractors).self_train(task).labels + 1, 5)[..., 1:].sum(1).max()
        for distractors in (0, 4, (2, 6))
    ]
    assert kept == [4, 2, 2]


def test_one_loss_trains_the_learner_and_the_other_the_network():
    task = random_task(n_unlabeled=9)
    items = [x.requires_grad_() for x in (task.support, task.query, task.unlabeled)]
    wrapper = SelfTraining(Prototypical(Features(6), temperature=1.0)).train()
    network = list(wrapper.weighting.parameters())
    main, term = (torch.autograd.grad(loss, items + network, allow_unused=True) for loss in outer_losses(wrapper, task))
    assert all(gradient.abs().sum() > 0 for gradient in (*main[:2], *term[3:]))
    assert all(gradient is None for gradient in (*main[2:], *term[:3]))


def test_the_loss_of_the_network_is_that_of_the_queries_before_fine_tuning():
    task = random_task(n_unlabeled=8)
    support = task.support + 5 * torch.eye(4, 6)[task.support_y]
    task = dataclasses.replace(task, support=support, unlabeled=support + task.unlabeled)  # labels are sure
    wrapper = SelfTraining(Prototypical(Features(6), temperature=1.0), finetune_steps=30, most_confident=None).eval()
    before = SelfTraining(wrapper.learner, finetune_steps=0, most_confident=None).eval()
    before.load_state_dict(wrapper.state_dict())
    assert torch.equal(before.self_train(task).labels, wrapper.self_train(task).labels)
    main, term = outer_losses(wrapper, task)
    torch.testing.assert_close(term, outer_losses(before, task)[0])
    assert abs(main - term) > 1e-3


def test_the_gradient_goes_through_every_step_to_the_network():
    """Against finite differences, in a direction of its last layer."""
    task = random_task(n_unlabeled=9)
    wrapper = SelfTraining(Prototypical(Features(6), temperature=1.0), lr=1.0).eval()
    weight = wrapper.weighting.rest[-1].weight
    outer_losses(wrapper, task)[1].backward()
    direction, values = weight.grad / weight.grad.norm(), []
    for sign in (1, -1):
        moved = SelfTraining(wrapper.learner, lr=1.0).eval()
        moved.load_state_dict(wrapper.state_dict())
        moved.weighting.rest[-1].weight.data += sign * 0.05 * direction
        values.append(outer_losses(moved, task)[1].item())
    assert (values[0] - values[1]) / 0.1 == pytest.approx(weight.grad.norm().item(), rel=0.01)


def test_training_is_one_stage_that_keeps_all_items():
    task = random_task(n_unlabeled=30)
    trained = plain(stages=3, most_confident=0.3, threshold=0.9).train().self_train(task)
    one, three = (plain(stages=stages, most_confident=None).self_train(task) for stages in (1, 3))
    torch.testing.assert_close(trained.logits, one.logits)
    assert torch.equal(trained.labels, one.labels)
    assert not torch.equal(trained.labels, three.labels)


def test_the_surest_are_told_apart_where_all_probabilities_are_one():
    support = 100 * torch.eye(2)[None]
    away = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])  # from the first class towards the second
    unlabeled = torch.cat([support[0, :1] - away, support[0, 1:] - away.flip(1)])[None]
    task = Task(support, torch.arange(2)[None], unlabeled, 2, unlabeled)
    wrapper = plain(most_confident=0.5)
    assert (wrapper.classify(task).logits.softmax(-1).amax(-1) == 1).all()
    for order in (torch.arange(8), torch.arange(8).flip(0)):
        labels = wrapper.self_train(dataclasses.replace(task, unlabeled=unlabeled[:, order])).labels
        assert labels[0, order.argsort()].tolist() == [-1, 0, 0, -1, -1, 1, 1, -1]


def test_neither_offset_nor_scale_of_the_embeddings_matters():
    task = next(tasks())
    before = plain(most_confident=None).self_train(task)
    for scale, offset in ((30.0, 0.0), (1.0, 20.0), (0.1, -1.0)):
        other = dataclasses.replace(
            task, **{name: scale * getattr(task, name) + offset for name in ("support", "query", "unlabeled")}
        )
        after = plain(most_confident=None).self_train(other)
        assert torch.equal(after.labels, before.labels)
        torch.testing.assert_close(after.logits / scale**2, before.logits, atol=2e-2, rtol=1e-3)


class Linear(ClassifierMixin, BaseEstimator):
    """The classifier of one episode in NumPy: gradient descent on W with all rows, then with the first, the support."""

    def __init__(self, centers, mean, scale, spread, n_support, steps, lr):
        self.centers, self.mean, self.scale, self.spread = centers, mean, scale, spread
        self.n_support, self.steps, self.lr = n_support, steps, lr

    def _start(self, x):
        g = -((x[:, None] - self.centers) ** 2).sum(-1) / self.spread
        return g, (x - self.mean) / self.scale

    def fit(self, x, y):
        self.classes_ = np.arange(len(self.centers))
        g, z = self._start(x)
        self.w_ = np.zeros((x.shape[1], len(self.centers)))
        for n, steps in ((len(x), self.steps[0]), (self.n_support, self.steps[1])):
            for _ in range(steps):
                residual = self._softmax((g + z @ self.w_)[:n]) - np.eye(len(self.centers))[y[:n]]
                self.w_ -= self.lr * z[:n].T @ residual / n
        return self

    def predict_proba(self, x):
        g, z = self._start(x)
        return self._softmax(self.spread * (g + z @ self.w_))

    def predict(self, x):
        return self.predict_proba(x).argmax(-1)

    @staticmethod
    def _softmax(scores):
        p = np.exp(scores - scores.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)


def test_with_a_threshold_it_is_self_training_of_scikit_learn():
    task, seen = random_task(episodes=8, n_unlabeled=30), set()
    task = dataclasses.replace(task, **{n: 0.6 * getattr(task, n) for n in ("support", "query", "unlabeled")})
    for threshold in (0.0, 0.35, 0.5, 0.7, 0.9, 0.99):
        for stages in (1, 2, 4, 20):
            wrapper = plain(threshold=threshold, stages=stages, most_confident=None, retrain_steps=15, finetune_steps=5)
            found = wrapper.self_train(task)
            for e in range(8):
                support, y, unlabeled, query = (
                    x[e].double().numpy() if x.is_floating_point() else x[e].numpy()
                    for x in (task.support, task.support_y, task.unlabeled, task.query)
                )
                items, centers = np.concatenate([support, unlabeled]), support.reshape(4, 2, 6).mean(1)
                g = -((items[:, None] - centers) ** 2).sum(-1)
                scale = np.sqrt(((items - items.mean(0)) ** 2).sum(-1).mean())
                spread = np.sqrt(((g - g.mean(-1, keepdims=True)) ** 2).mean())
                theirs = SelfTrainingClassifier(
                    Linear(centers, items.mean(0), scale, spread, len(support), (15, 5), 3.0),
                    threshold=threshold,
                    max_iter=stages,
                ).fit(items, np.concatenate([y, np.full(len(unlabeled), -1)]))
                assert found.labels[e].tolist() == theirs.transduction_[8:].tolist()
                rounds = theirs.labeled_iter_[8:]
                assert found.labeled_in[e].tolist() == np.where(rounds < 0, 0, rounds).tolist()
                assert STOPPED[found.stopped[e]] == theirs.termination_condition_
                np.testing.assert_allclose(found.logits[e].softmax(-1), theirs.predict_proba(query), atol=1e-4)
                seen.add((theirs.termination_condition_, theirs.n_iter_))
    assert {reason for reason, _ in seen} == set(STOPPED)
    assert max(rounds for _, rounds in seen) > 3


def test_a_threshold_and_a_share_together_label_the_surest_first():
    task = random_task(n_unlabeled=20)
    trained = plain(threshold=0.0, most_confident=0.4, stages=30).self_train(task)
    assert [STOPPED[reason] for reason in trained.stopped] == ["all_labeled"] * 3
    for e in range(3):
        for c in range(4):
            stages = trained.labeled_in[e][trained.labels[e] == c].tolist()
            assert max(map(stages.count, stages), default=0) <= 2
    first = plain(most_confident=0.4, stages=1).self_train(task).labels
    assert torch.equal(torch.where(trained.labeled_in == 1, trained.labels, -1), first)


def test_labels_that_no_longer_change_end_it():
    apart = 20 * torch.eye(4).repeat(1, 2)[None]
    task = Task(apart, torch.arange(4)[None], apart, 4, apart + 0.1)
    trained = (
        SelfTraining(Prototypical(Features(8), temperature=1.0), stages=5, weighting=False).eval().self_train(task)
    )
    assert trained.labels.tolist() == [[0, 1, 2, 3]]
    assert trained.labeled_in.tolist() == [[1, 1, 1, 1]]
    assert STOPPED[trained.stopped[0]] == "no_change"


def test_other_learners_start_it():
    task = random_task(n_unlabeled=9)
    wrapper = SelfTraining(Matching(Features(6)), weighting=False).eval()
    before, after = wrapper.learner.classify(task).logits, wrapper.classify(task).logits
    assert not torch.allclose(after, before, atol=1e-3)
    assert (after.argmax(-1) == before.argmax(-1)).float().mean() > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": -1}, "stages must be an integer, at least 0, got -1"),
        ({"retrain_steps": -3}, "retrain_steps .* got -3"),
        ({"finetune_steps": -2}, "finetune_steps .* got -2"),
        ({"lr": 0}, "lr must be a number, above 0, got 0"),
        (
            {"most_confident": 20},
            "most_confident must be a number, above 0 and at most 1, a share, or null for all, got 20",
        ),
        ({"threshold": 1.0}, "threshold must be a number, at least 0 and below 1, .* got 1"),
        ({"retrain_steps": 0}, "weighting has nothing to weigh"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        SelfTraining(Prototypical(Features(6), temperature=1.0), **settings)


def test_settings_without_effect():
    assert SelfTraining(Prototypical(Features(6), temperature=1.0)).without_effect == {}
    idle = ["retrain_steps", "finetune_steps", "lr", "most_confident", "distractors", "threshold"]
    assert list(plain(stages=0).without_effect) == idle
    assert list(plain(retrain_steps=0, finetune_steps=0).without_effect) == ["lr"]
    assert plain(retrain_steps=0).without_effect == plain(finetune_steps=0).without_effect == {}


def test_a_transductive_learner_is_refused():
    with pytest.raises(ValueError, match="which TPN lets see each other: take an inductive learner"):
        SelfTraining(TPN(Features(3, 5, 5)))


def test_base_classes_are_no_answers_whatever_the_learner_can():
    learner = Prototypical(Features(6), temperature=1.0)
    learner.capabilities = Capabilities(incremental=True)
    assert not SelfTraining(learner).capabilities.incremental
