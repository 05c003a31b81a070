"""Answers: many queries as few, the nearest example, and probabilities too low to count."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from episodic import FewShotClassifier
from episodic.assemble.predictor import Predictor, abstention
from episodic.core.distances.cosine import Cosine
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.snr import SNR
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from tests.assemble.small import QUERY, STORE, SUPPORT

DIGITS, NAMES = load_digits(return_X_y=True)
LARGE = ("learner.temperature=64",)


def test_it_answers_as_the_classifier_of_scikit_learn():
    ours, theirs = (each(device="cpu").fit(DIGITS[:30], NAMES[:30]) for each in (Predictor, FewShotClassifier))
    np.testing.assert_array_equal(ours.predict_proba(DIGITS[30:]), theirs.predict_proba(DIGITS[30:]))
    with pytest.raises(ValueError, match="call fit first"):
        Predictor(device="cpu").answers(DIGITS)
    with pytest.raises(ValueError, match="each item needs a name, got 3 items and 2 names"):
        Predictor(device="cpu").fit(DIGITS[:3], [1, 2])


def test_many_queries_in_chunks_are_answered_as_few(monkeypatch):
    classifier = FewShotClassifier(device="cpu").fit(DIGITS[:50], NAMES[:50])
    whole = classifier.decision_function(DIGITS)
    monkeypatch.setattr("episodic.assemble.predictor.PAIRS", 50 * 7)  # seven queries at once
    asked = []
    monkeypatch.setattr(
        classifier, "_compare", lambda q: asked.append(len(q)) or type(classifier)._compare(classifier, q)
    )
    np.testing.assert_allclose(classifier.decision_function(DIGITS), whole, rtol=1e-5, atol=1e-2)
    assert max(asked) == 7
    assert sum(asked) == len(DIGITS)


def test_a_transductive_learner_sees_the_queries_of_all_chunks_together(run, monkeypatch):
    classifier = FewShotClassifier(run("learner=tpn"), device="cpu")
    classifier.fit(STORE.images[SUPPORT], STORE.labels[SUPPORT].numpy())
    whole = classifier.decision_function(STORE.images[QUERY])
    monkeypatch.setattr("episodic.assemble.predictor.PAIRS", len(SUPPORT) * 5)
    np.testing.assert_allclose(classifier.decision_function(STORE.images[QUERY]), whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("learner", ["prototypical", "matching"])
def test_the_nearest_support_item_is_so_as_the_learner_compares(learner):
    classifier = FewShotClassifier(device="cpu", learner=learner).fit(DIGITS[:30], NAMES[:30])
    differ = 0
    for answer, query in zip(classifier.answers(DIGITS[30:60]), DIGITS[30:60], strict=True):
        cosines = [x @ query / np.linalg.norm(x) / np.linalg.norm(query) for x in DIGITS[:30]]
        distances = [np.linalg.norm(x - query) for x in DIGITS[:30]]
        if learner == "prototypical":
            assert distances[answer.nearest] == pytest.approx(min(distances), rel=1e-4)
        else:
            assert cosines[answer.nearest] == pytest.approx(max(cosines), abs=1e-5)
        assert answer.similarity == pytest.approx(cosines[answer.nearest], abs=1e-5)
        differ += np.argmin(distances) != np.argmax(cosines)
    assert differ > 0


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")
@pytest.mark.parametrize("offset", [1e4, 1.7e9])
def test_features_far_from_zero_are_told_apart(offset, tmp_path):
    X, y = load_digits(return_X_y=True)
    X = X + offset
    ours = FewShotClassifier(device="cpu").fit(X[:900], y[:900])
    theirs = NearestCentroid().fit(X[:900] - offset, y[:900])
    assert (ours.predict(X[900:]) == theirs.predict(X[900:] - offset)).mean() > 0.99
    ours.save(tmp_path / "f.safetensors")
    loaded = FewShotClassifier.load(tmp_path / "f.safetensors", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(X[900:]), ours.predict_proba(X[900:]))


def test_answers_that_are_no_numbers_are_refused():
    classifier = FewShotClassifier(device="cpu").fit(DIGITS[:30], NAMES[:30])
    with pytest.raises(ValueError, match="answers are no finite numbers: scale the features"):
        classifier.predict_proba(DIGITS * 1e30)


def test_the_files_of_the_support_are_kept_from_arrays_of_paths_too(run, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(256, size=(16, 16), dtype=np.uint8)).save(path)
    given = np.array([str(path) for path in paths])
    assert FewShotClassifier(run(), device="cpu").fit(given, ["a", "a", "b", "b"]).names_ == list(given)


def test_abstention_is_the_smallest_threshold_that_keeps_the_errors_few():
    random = np.random.default_rng(0)
    for _ in range(200):
        p = random.choice(np.linspace(0.2, 1, 9), size=random.integers(1, 25))
        right, error = random.random(len(p)) < p, random.choice([0.0, 0.1, 0.25, 0.5])
        fits = [t for t in [0.0, *sorted(p)] if (~right[p >= t]).mean() <= error]
        assert abstention(p, right, error) == (fits[0] if fits else np.inf)


@pytest.mark.parametrize("chunk", [2**24, 1])
def test_auto_leaves_each_support_item_out_in_turn(chunk, monkeypatch):
    """An explicit loop of fits without the item; a class of one item is not asked about."""
    monkeypatch.setattr("episodic.assemble.predictor.CHUNK_BYTES", chunk)
    X, y = np.concatenate([DIGITS[:60], DIGITS[:1] + 90]), np.append(NAMES[:60], 77)
    extra = DIGITS[100:120]
    settings = {"options": LARGE, "semi": "soft_kmeans", "device": "cpu"}
    probabilities, right = [], []
    for i in range(60):
        rest = np.delete(np.arange(61), i)
        [answer] = FewShotClassifier(**settings).fit(X[rest], y[rest], extra).answers(X[[i]])
        probabilities.append(answer.probability)
        right.append(answer.label == y[i])
    wanted = abstention(np.array(probabilities), np.array(right), 0.02)
    classifier = FewShotClassifier(abstain="auto", max_error=0.02, **settings).fit(X, y, extra)
    assert 0 < wanted < 1
    assert classifier.threshold_ == pytest.approx(wanted, rel=1e-4)
    answers = classifier.answers(DIGITS[200:300])
    assert [a.abstain for a in answers] == [a.probability < classifier.threshold_ for a in answers]
    assert len({a.abstain for a in answers}) == 2


def test_auto_says_so_where_nothing_can_be_trusted():
    X, y = np.array([[0.0], [0.1], [5.0], [5.1]]), ["a", "b", "a", "b"]
    with pytest.warns(UserWarning, match="none counts"):
        classifier = FewShotClassifier(abstain="auto", device="cpu").fit(X, y)
    assert all(answer.abstain for answer in classifier.answers(X))


def test_inverted_pictures_are_answered_as_the_others(run):
    folder, y = run(), STORE.labels[SUPPORT].numpy()
    plain = FewShotClassifier(folder, device="cpu").fit(STORE.images[SUPPORT], y)
    turned = FewShotClassifier(folder, device="cpu", invert=True).fit(255 - STORE.images[SUPPORT], y)
    np.testing.assert_array_equal(
        turned.predict_proba(255 - STORE.images[QUERY]), plain.predict_proba(STORE.images[QUERY])
    )


def test_unlabeled_items_need_something_that_uses_them():
    with pytest.raises(ValueError, match="nothing uses the unlabeled items: choose a wrapper"):
        FewShotClassifier(device="cpu").fit(DIGITS[:30], NAMES[:30], DIGITS[30:])


FEATURES = np.random.default_rng(0).normal(size=(40, 6)) + 2
LETTERS = ["a", "b", "c", "d"] * 5


def predictor_of(*options: str, **settings) -> Predictor:
    return Predictor(device="cpu", options=options, **settings).fit(FEATURES[:20], LETTERS)


@pytest.mark.parametrize("learner", ["prototypical", "matching"])
@pytest.mark.parametrize(
    ("name", "distance"),
    [("squared_euclidean", SquaredEuclidean()), ("euclidean", Euclidean()), ("cosine", Cosine()), ("snr", SNR())],
)
def test_the_nearest_support_item_is_so_by_the_learners_distance(learner, name, distance):
    predictor = predictor_of(f"distance@learner.distance={name}", learner=learner)
    support, queries = (torch.from_numpy(x).float() for x in (FEATURES[:20], FEATURES[20:]))
    expected = distance.similarities(queries, support).argmax(-1).tolist()
    assert [answer.nearest for answer in predictor.answers(FEATURES[20:])] == expected


@pytest.mark.parametrize(
    ("options", "shifted"),
    [
        ((), True),
        (("distance@learner.distance=euclidean",), True),
        (("distance@learner.distance=cosine",), False),
        (("distance@learner.distance=snr",), False),
    ],
)
@pytest.mark.parametrize("semi", ["supervised", "soft_kmeans"])
def test_features_are_shifted_only_where_no_distance_minds(options, shifted, semi):
    assert bool(predictor_of(*options, semi=semi)._origin.any()) == shifted
    if semi != "supervised":
        assert not predictor_of(*options, "distance@semi.soft_kmeans.distance=cosine", semi=semi)._origin.any()
