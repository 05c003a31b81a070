import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.semi_supervised import LabelPropagation as Clamping
from sklearn.semi_supervised import LabelSpreading

from episodic import Task
from episodic.core.distances.dot import Dot
from episodic.learners.attention_attractor import AttentionAttractor
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.learners.matching import Matching
from episodic.learners.prediction import Prediction
from episodic.learners.prototypical import Prototypical
from episodic.learners.tpn import TPN
from episodic.semi.label_propagation import LabelPropagation
from tests.conftest import Features, random_task
from tests.learners.laws import DISTANCE_NAMES, DISTANCES
from tests.semi.laws import check_gradients, check_wrapper_laws

ALPHAS = [0.2, 0.5, 0.9, 0.99]
EXACT = {"tol": 1e-12, "max_iter": 100_000}
PLAIN = {"gamma": 0.15, "scale_neighbor": 0, "neighbors": 0}  # the graph of scikit-learn's kernel="rbf"


def wrapped(learner: type[AbstractMetricLearner] = Prototypical, **settings) -> LabelPropagation:
    return LabelPropagation(learner(Features(6)), **settings).eval()


def nodes(task: Task, e: int, *roles: str) -> np.ndarray:
    """Features of one episode, role after role, in float64."""
    return np.concatenate([getattr(task, role)[e].flatten(1).double().numpy() for role in roles])


def labels(task: Task, e: int, n: int) -> np.ndarray:
    """Those of the support, then -1, `n` in all."""
    return np.concatenate([task.support_y[e].numpy(), np.full(n - task.support_y.shape[1], -1)])


def graph_by_loops(x, gamma, scale_neighbor, neighbors) -> np.ndarray:
    n = len(x)
    d = [[sum((a - b) ** 2) for b in x] for a in x]
    s = [sorted(d[i][j] for j in range(n) if j != i)[scale_neighbor - 1] ** 0.5 for i in range(n)]
    w = np.array([[(i != j) * np.exp(-gamma * d[i][j] / (s[i] * s[j])) for j in range(n)] for i in range(n)])
    near = [set(np.argsort(-row)[:neighbors]) for row in w]
    return np.array([[w[i, j] * (j in near[i] or i in near[j]) for j in range(n)] for i in range(n)])


def spread_by_scikit_learn(graph, y, alpha) -> torch.Tensor:
    peer = LabelSpreading(kernel=lambda a, b: graph.copy(), alpha=alpha, **EXACT).fit(np.arange(len(y))[:, None], y)
    return torch.from_numpy(peer.label_distributions_).float()


def normalized_rows(scores) -> torch.Tensor:
    return torch.from_numpy(scores / scores.sum(-1, keepdims=True)).float()


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("item", [(6,), (2, 2, 2)])
def test_laws(clamp, item):
    for transductive in (False, True):
        settings = {"clamp": clamp, "transductive": transductive}
        check_wrapper_laws(
            lambda learner, settings=settings: LabelPropagation(learner, **settings),
            lambda learner, settings=settings: LabelPropagation(learner, alpha=0.0, **settings),
            item=item,
            transductive=transductive,
        )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_transductive_it_is_scikit_learns_label_spreading(alpha):
    task = random_task(n_unlabeled=9, imbalanced=True)
    prediction = wrapped(alpha=alpha, transductive=True, **PLAIN).classify(task)
    for e in range(3):
        x = nodes(task, e, "support", "unlabeled", "query")
        peer = LabelSpreading(kernel="rbf", gamma=0.15, alpha=alpha, **EXACT).fit(x, labels(task, e, len(x)))
        expected = torch.from_numpy(peer.label_distributions_).float()[11:]
        torch.testing.assert_close(prediction.unlabeled[e], expected[:9], atol=1e-5, rtol=0)
        torch.testing.assert_close(prediction.logits[e].softmax(-1), expected[9:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("transductive", [False, True])
def test_scales_and_neighbors_equal_loops_and_scikit_learns_label_spreading(alpha, transductive):
    task = random_task(seed=2, n_unlabeled=9)
    settings = {"gamma": 1.5, "scale_neighbor": 3, "neighbors": 4}
    prediction = wrapped(alpha=alpha, transductive=transductive, **settings).classify(task)
    for e in range(3):
        x = nodes(task, e, "support", "unlabeled", *["query"] * transductive)
        expected = spread_by_scikit_learn(graph_by_loops(x, *settings.values()), labels(task, e, len(x)), alpha)[8:]
        torch.testing.assert_close(prediction.unlabeled[e], expected[:9], atol=1e-5, rtol=0)
        if transductive:
            torch.testing.assert_close(prediction.logits[e].softmax(-1), expected[9:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize(("distance", "of_pair"), DISTANCES, ids=DISTANCE_NAMES)
def test_any_distance_equals_loops(distance, of_pair, transductive):
    """Scales, weights, neighbors, normalization and answers by the formulas of the docstring, item by item."""
    task = random_task(seed=2, n_unlabeled=9)
    gamma, nth, k, alpha = 1.5, 3, 4, 0.7
    wrapper = wrapped(
        alpha=alpha, gamma=gamma, scale_neighbor=nth, neighbors=k, transductive=transductive, distance=distance
    )
    prediction = wrapper.classify(task)
    for e in range(3):
        roles = ("support", "unlabeled", *["query"] * transductive)
        x = torch.cat([getattr(task, role)[e] for role in roles]).double()
        n = len(x)
        d = [[float(of_pair(x[i], x[j])) for j in range(n)] for i in range(n)]
        s = [sorted(d[i][j] for j in range(n) if j != i)[nth - 1] ** 0.5 for i in range(n)]
        w = [[(i != j) * np.exp(-gamma * d[i][j] / (s[i] * s[j])) for j in range(n)] for i in range(n)]
        near = [sorted(range(n), key=lambda j, i=i: -w[i][j])[:k] for i in range(n)]
        w = np.array([[w[i][j] * (j in near[i] or i in near[j]) for j in range(n)] for i in range(n)])
        degree = w.sum(1)
        y = np.eye(4)[labels(task, e, n)] * (np.arange(n) < 8)[:, None]
        f = np.linalg.solve(np.eye(n) - alpha * w / np.sqrt(np.outer(degree, degree)), y)
        torch.testing.assert_close(prediction.unlabeled[e], normalized_rows(f[8:17]), atol=1e-4, rtol=0)
        answers = f[17:]
        if not transductive:
            answers = []
            for q in task.query[e].double():
                to = [float(of_pair(q, x[j])) for j in range(n)]
                edges = [np.exp(-gamma * to[j] / (sorted(to)[nth - 1] ** 0.5 * s[j])) for j in range(n)]
                kept = sorted(range(n), key=lambda j, edges=edges: -edges[j])[:k]
                answers.append(sum(edges[j] / np.sqrt(degree[j] + edges[j]) * f[j] for j in kept))
        torch.testing.assert_close(
            prediction.logits[e].softmax(-1), normalized_rows(np.array(answers)), atol=1e-4, rtol=0
        )


def test_a_similarity_that_is_no_distance_is_refused():
    with pytest.raises(ValueError, match=r"semi=label_propagation needs distances, and Dot\(\) cannot be read as one"):
        wrapped(distance=Dot())


def test_with_alpha_zero_no_other_setting_has_an_effect():
    idle = ["gamma", "scale_neighbor", "neighbors", "transductive", "clamp", "distance"]
    assert list(wrapped(alpha=0.0).without_effect) == idle
    assert wrapped().without_effect == {}


def test_without_unlabeled_items_the_queries_alone_make_the_graph_where_it_is_transductive():
    task = random_task()
    prediction = wrapped(alpha=0.5, transductive=True, **PLAIN).classify(task)
    assert prediction.unlabeled is None
    x = nodes(task, 1, "support", "query")
    expected = spread_by_scikit_learn(rbf_kernel(x, gamma=0.15), labels(task, 1, 13), 0.5)[8:]
    torch.testing.assert_close(prediction.logits[1].softmax(-1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("neighbors", [0, 4])
def test_a_query_solves_the_system_of_the_others_and_itself(alpha, neighbors):
    """Query by query the whole system of 18 items, in which the 17 others keep the block that they had."""
    task = random_task(n_unlabeled=9)
    settings = {"gamma": 1.5, "scale_neighbor": 3, "neighbors": neighbors}
    found = wrapped(alpha=alpha, **settings).classify(task).logits.softmax(-1)
    y = np.zeros((18, 4))
    y[range(8), task.support_y[0]] = 1
    for e in range(3):
        x, queries = nodes(task, e, "support", "unlabeled"), nodes(task, e, "query")
        w = graph_by_loops(x, 1.5, 3, neighbors or 17)
        d = w.sum(1)
        squared = np.square(x[:, None] - x).sum(-1)
        s = np.sort(squared, axis=1)[:, 3] ** 0.5
        for q, query in enumerate(queries):
            to_query = np.square(x - query).sum(-1)
            edges = np.exp(-1.5 * to_query / (np.sort(to_query)[2] ** 0.5 * s))
            edges[np.argsort(-edges)[neighbors or 17 :]] = 0
            row = edges / np.sqrt(edges.sum() * (d + edges))
            system = np.block([[w / np.sqrt(d[:, None] * d), row[:, None]], [row, np.zeros((1, 1))]])
            expected = np.linalg.inv(np.eye(18) - alpha * system)[-1] @ y
            torch.testing.assert_close(found[e, q], normalized_rows(expected), atol=1e-5, rtol=0)


def test_a_query_is_answered_much_as_by_a_graph_that_is_built_anew_with_it():
    task = blobs(n_unlabeled=20, n_query=40)
    answers = wrapped().classify(task).logits.softmax(-1)
    far = []
    for e in range(3):
        x, y = nodes(task, e, "support", "unlabeled"), labels(task, e, 25)
        for q, query in enumerate(nodes(task, e, "query")):
            graph = graph_by_loops(np.concatenate([x, query[None]]), 8.0, 5, 20)
            far.append((spread_by_scikit_learn(graph, y, 0.8)[-1] - answers[e, q]).abs().max().item())
    assert np.median(far) < 0.01
    assert np.quantile(far, 0.9) < 0.1


def blobs(n_unlabeled, n_query) -> Task:
    """4 overlapping classes of one labeled item."""
    generator = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(3, 4, 6, generator=generator)
    y = [torch.arange(4), torch.arange(n_unlabeled) % 4, torch.arange(n_query) % 4]
    parts = [centers[:, of] + torch.randn(3, len(of), 6, generator=generator) for of in y]
    return Task(parts[0], y[0].expand(3, -1), parts[2], 4, parts[1])


def test_clamped_it_is_scikit_learns_label_propagation_and_its_predictions_of_new_items():
    task = random_task(n_unlabeled=9, imbalanced=True)
    near_one = {"alpha": 1 - 1e-6, "clamp": True}
    inductive = wrapped(**near_one, **PLAIN).classify(task)
    transductive = wrapped(**near_one, transductive=True, **PLAIN).classify(task)
    for e in range(3):
        x, queries = nodes(task, e, "support", "unlabeled"), nodes(task, e, "query")
        peer = Clamping(kernel="rbf", gamma=0.15, **EXACT).fit(x, labels(task, e, len(x)))
        expected = torch.from_numpy(peer.label_distributions_[11:]).float()
        torch.testing.assert_close(inductive.unlabeled[e], expected, atol=2e-5, rtol=0)
        answers = torch.from_numpy(peer.predict_proba(queries)).float()
        torch.testing.assert_close(inductive.logits[e].softmax(-1), answers, atol=2e-5, rtol=0)
        together = np.concatenate([x, queries])
        peer = Clamping(kernel="rbf", gamma=0.15, **EXACT).fit(together, labels(task, e, len(together)))
        answers = torch.from_numpy(peer.label_distributions_[20:]).float()
        torch.testing.assert_close(transductive.logits[e].softmax(-1), answers, atol=2e-5, rtol=0)


def test_labels_reach_along_a_chain_what_the_learner_gives_to_the_other_class():
    """Two classes that each begin at a labeled item and lead away from it; the query at the end of the first is nearer to
    the label of the second.
    """
    chain = torch.arange(1, 9) / 2.0
    first, second = torch.stack([chain, torch.zeros(8)], -1), torch.stack([chain - 0.2, torch.full((8,), 3.0)], -1)
    task = Task(
        torch.tensor([[[0.0, 0.0], [4.0, 3.0]]]),
        torch.tensor([[0, 1]]),
        torch.tensor([[[4.1, 0.2]]]),
        2,
        torch.cat([first, second])[None],
    )
    learner = Prototypical(Features(2))
    assert learner.classify(task).logits.argmax() == 1
    prediction = LabelPropagation(learner, scale_neighbor=2).classify(task)
    assert prediction.logits.argmax() == 0
    assert prediction.unlabeled[0].argmax(-1).tolist() == [0] * 8 + [1] * 8


def test_the_unit_of_the_features_does_not_matter():
    task = random_task(n_unlabeled=9)
    for transductive in (False, True):
        wrapper = wrapped(transductive=transductive)
        large = wrapper.classify(task.map(lambda x: 1000 * x)).logits
        torch.testing.assert_close(large, wrapper.classify(task).logits, atol=1e-4, rtol=1e-4)


def test_what_no_label_reaches_is_answered_evenly():
    def far(x):  # all but the first item of a role
        return torch.cat([x[:, :1], x[:, 1:] + 1e3], dim=1)

    task = random_task(n_unlabeled=4)
    for transductive, clamp in ((False, False), (True, False), (False, True), (True, True)):
        wrapper = wrapped(transductive=transductive, clamp=clamp, **PLAIN)
        prediction = wrapper.classify(dataclasses.replace(task, unlabeled=far(task.unlabeled), query=far(task.query)))
        torch.testing.assert_close(prediction.logits[:, 1:].softmax(-1), torch.full((3, 4, 4), 0.25))
        assert torch.equal(prediction.unlabeled[:, 1:], torch.zeros(3, 3, 4))
        assert prediction.logits[:, 0].softmax(-1).amax(-1).gt(0.251).all()
        torch.testing.assert_close(prediction.unlabeled[:, 0].sum(-1), torch.ones(3))


def test_the_learner_gives_its_embedding_and_with_alpha_zero_its_answer():
    task = random_task(n_unlabeled=9)
    assert torch.equal(wrapped().classify(task).logits, wrapped(Matching).classify(task).logits)
    for transductive in (False, True):
        matching = Matching(Features(6)).eval().classify(task).logits
        assert torch.equal(wrapped(Matching, alpha=0.0, transductive=transductive).classify(task).logits, matching)


def test_it_says_what_it_is():
    assert not wrapped(alpha=0.0, transductive=True).capabilities.transductive
    assert LabelPropagation(TPN(Features(6, 2, 2))).capabilities.transductive
    assert not LabelPropagation(AttentionAttractor(Features(6), n_classes=3)).capabilities.incremental


def test_unlabeled_items_are_learned_from_also_where_items_are_equal_or_far():
    task = random_task(n_unlabeled=9)
    unlabeled = task.unlabeled.clone().requires_grad_()
    wrapped().classify(dataclasses.replace(task, unlabeled=unlabeled)).logits[..., 0].sum().backward()
    assert unlabeled.grad.abs().amax(-1).gt(1e-6).all()
    equal = task.map(torch.ones_like)
    some_equal = dataclasses.replace(task, unlabeled=task.unlabeled[:, :1].expand(-1, 9, -1))
    spread_out = task.map(lambda x: x * torch.logspace(-3, 3, len(x)).view(-1, 1))
    for odd in (equal, some_equal, spread_out):
        for transductive in (False, True):
            for settings in ({}, {"clamp": True}, PLAIN):
                leaves = {
                    role: getattr(odd, role).clone().requires_grad_() for role in ("support", "query", "unlabeled")
                }
                prediction = wrapped(transductive=transductive, **settings).classify(dataclasses.replace(odd, **leaves))
                prediction.logits.log_softmax(-1)[..., 0].sum().backward()
                assert all(leaf.grad.isfinite().all() for leaf in leaves.values()), (settings, transductive)
    check_gradients(wrapped(alpha=0.99), task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.0}, r"alpha must be a number, at least 0 and below 1 \(0 is the learner itself\), got 1.0"),
        ({"alpha": -0.1}, "alpha must be a number, at least 0"),
        ({"gamma": 0.0}, "gamma must be a number, above 0, got 0.0"),
        ({"scale_neighbor": -1}, "scale_neighbor must be an integer, at least 0, got -1"),
        ({"neighbors": -2}, "neighbors must be an integer, at least 0, got -2"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        wrapped(**settings)


def test_a_learner_without_embeddings_is_refused():
    class Adapting(AbstractLearner):
        def forward(self, task: Task) -> Prediction:
            raise NotImplementedError

    with pytest.raises(ValueError, match="semi=label_propagation works on embeddings, but Adapting has none"):
        LabelPropagation(Adapting())
