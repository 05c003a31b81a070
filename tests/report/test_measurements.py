import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from torch.utils.tensorboard import SummaryWriter

from episodic import EpisodeSampler
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.evaluate.calibration import calibration
from episodic.evaluate.scoring import evaluate, predictor
from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.maml import MAML
from episodic.learners.prototypical import Prototypical
from episodic.report.measurements import DOUBT, ConfusionCounts, measure
from episodic.report.plane import plane
from episodic.run.tensorboard import read_curves
from episodic.semi.label_propagation import LabelPropagation
from tests.conftest import random_store
from tests.test_loop import FP32, PLAIN, conv4, sampler_of

SEMI = {"n_unlabeled": 3, "n_distractors": 2}


def incremental(store):
    return IncrementalEpisodes(store.labels.numpy(), 5, 2, 1, 3, 3, 2, episodes=40)


def semi_supervised():
    store = random_store(separation=0.2)
    learner = LabelPropagation(Prototypical(conv4()))
    episodes = sampler_of(store, episodes=300, **SEMI)  # more than a block, and not a multiple of one
    return learner, store, episodes


def with_base_classes():
    store = dataclasses.replace(random_store(classes=9, separation=0.2), n_base=5)
    return BaseClassifier(conv4(), 5), store, incremental(store)


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
    predict, _ = predictor(learner, store, PLAIN, FP32)
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
    assert np.array_equal(found.tally.asked, asked)
    assert np.array_equal(found.tally.answered, answered)
    for c, values in enumerate(shares):
        interval = found.tally.interval(c)
        assert found.tally.episodes[c] == len(values) > 1
        assert found.tally.mean[c] == pytest.approx(np.mean(values))
        assert interval.mean == pytest.approx(np.mean(values))
        assert (interval.mean - interval.below, interval.mean + interval.above) == pytest.approx(student(values))
    wrong = np.zeros_like(answered)
    for item, truth, answer in found.wrong.tolist():
        assert labels[item] == truth != answer
        wrong[truth, answer] += 1
    assert np.array_equal(wrong + np.diag(np.diag(answered)), answered)
    assert len(found.right) == len(found.confidence) == answered.sum()
    assert found.right.sum() == np.trace(answered)


def student(values, low=0, high=1):
    """Both ends of Student's 95 % interval."""
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return np.clip([np.mean(values) - reach, np.mean(values) + reach], low, high)


def tally_of(*episodes):
    """Counts of the episodes given as `(classes, queries of each, {(class, answer): mistakes})`."""
    tally = ConfusionCounts(6)
    for classes, queries, mistakes in episodes:
        truth = np.repeat(np.arange(len(classes)), queries)
        indices = EpisodeSampler(np.repeat(np.arange(6), 60), len(classes), 1, queries, episodes=1)[0:1]
        indices = dataclasses.replace(indices, class_ids=np.array([classes]), query_y=truth[None])
        answers = truth.copy()
        for (c, answer), times in mistakes.items():
            answers[np.flatnonzero(truth == classes.index(c))[:times]] = classes.index(answer)
        tally.add(indices, answers[None])
    return tally


@pytest.mark.parametrize("rights", [(1, 3), (0, 4), (4, 3, 4), (4, 4, 4, 3, 4)])
def test_a_class_of_few_episodes_has_the_interval_of_student(rights):
    tally = tally_of(*(([0, 1], 4, {(0, 1): 4 - right}) for right in rights))
    shares, interval = np.array(rights) / 4, tally.interval(0)
    assert (interval.mean - interval.below, interval.mean + interval.above) == pytest.approx(student(shares))
    assert student(shares, high=9)[1] > 1  # what an accuracy cannot be was cut off


@pytest.mark.parametrize(("episodes", "known"), [(0, False), (1, False), (2, False), (4, False), (5, True)])
def test_few_episodes_that_agree_say_nothing_of_their_spread(episodes, known):
    interval = tally_of(*[([0, 1], 4, {(0, 1): 1})] * episodes).interval(0)
    assert (interval is not None) == known
    assert not known or (interval.below, interval.above) == pytest.approx((0, 0))


def test_confusions_come_by_their_share_and_classes_by_accuracy(case):
    tally = case[3].tally
    pairs = tally.confusions(most=10**6)
    wrong = {(a, b) for a in range(len(tally.mean)) for b in range(len(tally.mean)) if a != b and tally.answered[a, b]}
    assert set(pairs) == wrong
    assert len(pairs) == len(wrong) > 10
    shares = [tally.answered[pair] / (tally.asked[pair] + DOUBT) for pair in pairs]
    assert shares == sorted(shares, reverse=True)
    means = tally.mean[tally.hardest]
    assert (np.diff(means) >= 0).all()
    assert tally.confusions(most=3) == pairs[:3]


def test_a_pair_that_meets_often_leads_by_its_share_and_not_by_its_count():
    often, seldom = [([0, 1], 20, {(0, 1): 2})] * 20, [([2, 3], 20, {(2, 3): 10})] * 3
    tally = tally_of(*often, *seldom, ([4, 5], 1, {(4, 5): 1}))  # the last: a single query
    counts = {pair: int(tally.answered[pair]) for pair in ((0, 1), (2, 3), (4, 5))}
    assert counts == {(0, 1): 40, (2, 3): 30, (4, 5): 1}
    assert tally.confusions(most=9) == [(2, 3), (0, 1), (4, 5)]


def test_classes_that_were_not_asked_are_left_out():
    tally, labels = ConfusionCounts(6), np.repeat(np.arange(4), 5)
    indices = EpisodeSampler(labels, 2, 1, 2, episodes=1)[0:1]
    tally.add(indices, indices.query_y)
    assert sorted(tally.hardest) == sorted(indices.class_ids[0])
    assert np.isnan(tally.mean[[4, 5]]).all()
    assert [tally.interval(c) for c in range(6)] == [None] * 6
    assert tally.confusions(most=9) == []


def test_best_median_and_worst_episodes_are_shown_with_their_answers(case):
    _, _, episodes, found = case
    accuracies = found.evaluation.accuracies
    for scene in found.scenes.values():
        assert scene.accuracy == pytest.approx(accuracies[scene.number], abs=1e-6)
        assert np.array_equal(scene.indices.query, episodes[scene.number : scene.number + 1].query)
        assert (scene.taken is None) == (scene.indices.unlabeled.size == 0)
    assert accuracies[found.scenes["best"].number] == accuracies.max()
    assert accuracies[found.scenes["worst"].number] == accuracies.min()
    assert accuracies[found.scenes["median"].number] == np.percentile(accuracies, 50, method="lower")


def test_calibration_is_that_of_scikit_learn_and_its_error_that_of_a_loop():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.2, 1, size=500).astype(np.float32)
    right = random.uniform(size=500) < confidence**2
    found = calibration(confidence, right, bins=10)
    held = found.counts > 0
    accuracy, sure = calibration_curve(right, confidence, n_bins=10)
    np.testing.assert_allclose(found.accuracy[held], accuracy)
    np.testing.assert_allclose(found.confidence[held], sure, rtol=1e-6)
    error = 0.0
    for b in range(10):
        inside = (confidence > b / 10) & (confidence <= (b + 1) / 10)
        error += inside.sum() / 500 * abs(right[inside].mean() - confidence[inside].mean()) if inside.any() else 0
    assert found.error == pytest.approx(error)
    assert found.error > 0.05


def test_answers_that_are_not_finite_do_not_count_in_calibration():
    found = calibration(np.array([np.nan, 1.0, 0.0]), np.array([True, True, False]))
    assert found.counts.sum() == 2
    assert found.error == 0


def test_images_of_a_class_lie_together_in_the_plane():
    store = random_store(separation=3.0)
    found = plane(Prototypical(conv4()), store, [6, 1, 3], PLAIN, FP32, per_class=12)
    assert found.labels.tolist() == [6] * 12 + [1] * 12 + [3] * 12
    gaps = np.linalg.norm(found.points[:, None] - found.points, axis=-1)
    np.fill_diagonal(gaps, np.inf)
    assert (found.labels[gaps.argmin(1)] == found.labels).mean() > 0.9


def test_there_is_no_plane_without_embeddings():
    assert plane(MAML(conv4(), 3), random_store(), [0, 1, 2], PLAIN, FP32) is None


def test_curves_are_those_that_were_written_and_a_resumed_run_counts_once(tmp_path):
    assert read_curves(tmp_path) == {}
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (10, 20, 30):
            writer.add_scalar("train/loss", step / 10, step)
    with SummaryWriter(str(tmp_path), filename_suffix=".second_view") as writer:
        for step in (20, 40):
            writer.add_scalar("train/loss", -step, step)
    steps, values = read_curves(tmp_path)["train/loss"]
    assert steps.tolist() == [10, 20, 30, 40]
    assert values.tolist()[0::3] == [1.0, -40.0]


def test_damaged_events_are_read_as_far_as_they_go(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(100):
            writer.add_scalar("train/loss", step, step)
    path = next(tmp_path.glob("events*"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"damaged" * 9 + whole[len(whole) // 2 :])
    steps, _ = read_curves(tmp_path)["train/loss"]
    assert 10 < len(steps) < 100
