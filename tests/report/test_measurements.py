"""The measurements of a report: those of evaluation, of loops over queries, and of counts made by hand."""

import numpy as np
import pytest
import torch

from episodic import EpisodeSampler
from episodic.evaluate.scoring import episode_predictor, evaluate
from episodic.report.measurements import DOUBT, ConfusionCounts, measure
from tests.report.cases import FP32, PLAIN, counts_of, semi_supervised, student, with_base_classes


@pytest.fixture(scope="module", params=[semi_supervised, with_base_classes], ids=["semi-supervised", "incremental"])
def case(request):
    learner, store, episodes = request.param()
    return learner, store, episodes, measure(learner, store, episodes, PLAIN, FP32)


def test_the_scores_are_those_of_evaluate(case):
    learner, store, episodes, found = case
    expected = evaluate(learner, store, episodes, PLAIN, FP32)
    assert np.array_equal(found.evaluation.accuracies, expected.accuracies)
    assert np.array_equal(found.evaluation.class_ids, expected.class_ids)
    assert found.evaluation.class_interval == expected.class_interval
    assert found.evaluation.episodes_hash == expected.episodes_hash
    assert found.evaluation.details.keys() == expected.details.keys() != set()
    for name, values in expected.details.items():
        assert np.array_equal(found.evaluation.details[name], values), name


@torch.inference_mode()
def test_counts_and_intervals_by_class_are_those_of_a_loop_over_queries(case):
    learner, store, episodes, found = case
    labels, n_classes = store.labels.numpy(), len(store.class_names)
    predict, _ = episode_predictor(learner, store, PLAIN, FP32)
    asked, answered = np.zeros((2, n_classes, n_classes), int)
    shares: list[list[float]] = [[] for _ in range(n_classes)]
    for start in range(0, episodes.episodes, 256):
        block = episodes[start : min(start + 256, episodes.episodes)]
        answers = predict(block)[1].logits.argmax(-1).tolist()
        for e in range(len(block)):
            possible = [*block.class_ids[e].tolist(), *range(store.n_base)]
            right: dict[int, list[bool]] = {}
            for item, answer in zip(block.query[e], answers[e], strict=True):
                truth = int(labels[item])
                for other in possible:
                    asked[truth, other] += 1
                answered[truth, possible[answer]] += 1
                right.setdefault(truth, []).append(possible[answer] == truth)
            for truth, rights in right.items():
                shares[truth].append(float(np.mean(rights)))
    assert np.array_equal(found.counts.asked, asked)
    assert np.array_equal(found.counts.answered, answered)
    for c, values in enumerate(shares):
        interval = found.counts.interval(c)
        assert found.counts.episodes[c] == len(values) > 1
        assert found.counts.mean[c] == pytest.approx(np.mean(values))
        assert interval.mean == pytest.approx(np.mean(values))
        assert (interval.mean - interval.below, interval.mean + interval.above) == pytest.approx(student(values))
    wrong = np.zeros_like(answered)
    for item, truth, answer in found.wrong.tolist():
        assert labels[item] == truth != answer
        wrong[truth, answer] += 1
    assert np.array_equal(wrong + np.diag(np.diag(answered)), answered)
    assert len(found.right) == len(found.confidence) == answered.sum()
    assert found.right.sum() == np.trace(answered)


@pytest.mark.parametrize("rights", [(1, 3), (0, 4), (4, 3, 4), (4, 4, 4, 3, 4)])
def test_a_class_of_few_episodes_has_the_interval_of_student(rights):
    counts = counts_of(*(([0, 1], 4, {(0, 1): 4 - right}) for right in rights))
    shares, interval = np.array(rights) / 4, counts.interval(0)
    assert (interval.mean - interval.below, interval.mean + interval.above) == pytest.approx(student(shares))
    assert student(shares, high=9)[1] > 1  # what an accuracy cannot be was cut off


@pytest.mark.parametrize(("episodes", "known"), [(0, False), (1, False), (2, False), (4, False), (5, True)])
def test_few_episodes_that_agree_say_nothing_of_their_spread(episodes, known):
    interval = counts_of(*[([0, 1], 4, {(0, 1): 1})] * episodes).interval(0)
    assert (interval is not None) == known
    assert not known or (interval.below, interval.above) == pytest.approx((0, 0))


def test_confusions_come_by_their_share_and_classes_by_accuracy(case):
    counts = case[3].counts
    pairs = counts.confusions(most=10**6)
    wrong = {
        (a, b) for a in range(len(counts.mean)) for b in range(len(counts.mean)) if a != b and counts.answered[a, b]
    }
    assert set(pairs) == wrong
    assert len(pairs) == len(wrong) > 10
    shares = [counts.answered[pair] / (counts.asked[pair] + DOUBT) for pair in pairs]
    assert shares == sorted(shares, reverse=True)
    means = counts.mean[counts.hardest]
    assert (np.diff(means) >= 0).all()
    assert counts.confusions(most=3) == pairs[:3]


def test_a_pair_that_meets_often_leads_by_its_share_and_not_by_its_count():
    often, seldom = [([0, 1], 20, {(0, 1): 2})] * 20, [([2, 3], 20, {(2, 3): 10})] * 3
    counts = counts_of(*often, *seldom, ([4, 5], 1, {(4, 5): 1}))  # the last: a single query
    mistakes = {pair: int(counts.answered[pair]) for pair in ((0, 1), (2, 3), (4, 5))}
    assert mistakes == {(0, 1): 40, (2, 3): 30, (4, 5): 1}
    assert counts.confusions(most=9) == [(2, 3), (0, 1), (4, 5)]


def test_classes_that_were_not_asked_are_left_out():
    counts, labels = ConfusionCounts(6), np.repeat(np.arange(4), 5)
    indices = EpisodeSampler(labels, 2, 1, 2, episodes=1)[0:1]
    counts.add(indices, indices.query_y)
    assert sorted(counts.hardest) == sorted(indices.class_ids[0])
    assert np.isnan(counts.mean[[4, 5]]).all()
    assert [counts.interval(c) for c in range(6)] == [None] * 6
    assert counts.confusions(most=9) == []


def test_best_median_and_worst_episodes_are_shown_with_their_answers(case):
    _, _, episodes, found = case
    accuracies = found.evaluation.accuracies
    for example in found.examples.values():
        assert example.accuracy == pytest.approx(accuracies[example.number], abs=1e-6)
        assert np.array_equal(example.indices.query, episodes[example.number : example.number + 1].query)
        assert (example.taken is None) == (example.indices.unlabeled.size == 0)
    assert accuracies[found.examples["best"].number] == accuracies.max()
    assert accuracies[found.examples["worst"].number] == accuracies.min()
    assert accuracies[found.examples["median"].number] == np.percentile(accuracies, 50, method="lower")
