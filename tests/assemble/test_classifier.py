"""The classifier answers as evaluation does, in scikit-learn's manners, and is the same after a file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from episodic import EpisodeIndices, FewShotClassifier
from episodic.assemble.learner import build_parts
from episodic.assemble.load import load_parts
from episodic.assemble.predictor import abstention
from episodic.config.compose import compose_config
from episodic.core.backbones.conv4 import Conv4
from episodic.data.image import PictureForm
from episodic.evaluate.scoring import predictor
from episodic.run.device import Hardware
from episodic.run.run import Run
from tests.conftest import random_store

DIGITS, NAMES = load_digits(return_X_y=True)
LARGE = ("learner.temperature=64",)
SMALL = ["task=folder_5w1s", "task.dataset.path=.", "task.channels=1", "task.image_size=16", "task.dataset.channels=1",
         "task.dataset.image_size=16", "task.n_way=3", "backbone.widths=[8,8,8,8]", "device=cpu", "precision=fp32"]  # fmt: skip
EXPECTED = {
    "check_do_not_raise_errors_in_init_or_set_params": "sets every argument to -1, which the type checker of the tests refuses",
}


@parametrize_with_checks([FewShotClassifier(device="cpu")], expected_failed_checks=lambda estimator: EXPECTED)
def test_it_is_an_estimator_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def run(tmp_path):
    """A run of few weights, with the options given."""

    def made(*options):
        cfg = compose_config("train", [*SMALL, f"run={tmp_path}", *options])
        folder = Run(tmp_path)
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        parts = build_parts(cfg)
        folder.save("best", parts.learner, torch.optim.SGD(parts.learner.parameters()), {})
        return str(tmp_path)

    return made


STORE = random_store(classes=3, per_class=12, size=16)
SUPPORT = np.array([0, 1, 2, 12, 13, 24])  # unequal shots
QUERY = np.setdiff1d(np.arange(36), [*SUPPORT, *range(30, 36)])
UNLABELED = np.arange(30, 36)


def as_evaluated(learner, normalize, unlabeled=()):
    """Logits of the queries by what evaluation asks the learner with."""
    y, few = STORE.labels.numpy(), np.array(unlabeled, dtype=np.int64)[None]
    indices = EpisodeIndices(
        SUPPORT[None], y[SUPPORT][None], QUERY[None], y[QUERY][None], few, y[few], np.array([[0, 1, 2]])
    )
    predict, _ = predictor(learner, STORE, normalize, Hardware.choose("cpu", "fp32"))
    with torch.inference_mode():
        return predict(indices)[1].logits[0]


@pytest.mark.parametrize(
    ("options", "semi", "unlabeled"),
    [
        (["learner=prototypical"], None, ()),
        (["learner=matching", "learner.full_context=true", "head=linear"], None, ()),
        (["learner=relation"], None, ()),
        (["learner=tpn"], None, ()),
        (["learner=maml"], None, ()),
        (["learner=prototypical", "semi=masked_soft_kmeans"], None, UNLABELED),
        (["learner=prototypical", "learner.temperature=64"], "soft_kmeans", UNLABELED),
        (["learner=matching"], ["label_propagation"], UNLABELED),
    ],
)
def test_a_run_answers_as_in_evaluation(run, options, semi, unlabeled):
    folder = run(*options)
    cfg = Run(Path(folder)).config()
    if semi is not None:
        cfg.semi = compose_config("train", [f"semi={semi if isinstance(semi, str) else semi[0]}"]).semi
    parts = load_parts(cfg, folder)
    wanted = as_evaluated(parts.learner, parts.normalize, unlabeled)
    classifier = FewShotClassifier(folder, semi=semi, device="cpu")
    extra = STORE.images[unlabeled] if len(unlabeled) else None
    names = np.array(["a", "b", "c"])[STORE.labels]
    classifier.fit(STORE.images[SUPPORT], names[SUPPORT], extra)
    assert getattr(classifier._learner, "temperature", 1) == getattr(parts.learner, "temperature", 1)
    logits = classifier.decision_function(STORE.images[QUERY])
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(classifier.predict_proba(STORE.images[QUERY]), wanted.softmax(-1), rtol=1e-4, atol=1e-5)
    assert (classifier.predict(STORE.images[QUERY]) == np.array(["a", "b", "c"])[wanted.argmax(-1)]).all()
    alone = np.concatenate([classifier.decision_function(STORE.images[[q]]) for q in QUERY[:6]])
    assert np.allclose(alone, logits[:6], rtol=1e-4, atol=1e-4) != classifier.transductive_
    answers = classifier.answers(STORE.images[QUERY])
    assert [a.label for a in answers] == classifier.predict(STORE.images[QUERY]).tolist()


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
    np.testing.assert_allclose(classifier.decision_function(STORE.images[QUERY]), whole, rtol=1e-3, atol=1e-5)


def test_prototypes_of_features_are_the_nearest_centroid():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(300, 20)), random.integers(0, 6, 300)
    ours = FewShotClassifier(device="cpu").fit(X[:40], y[:40])
    assert (ours.predict(X) == NearestCentroid().fit(X[:40], y[:40]).predict(X)).all()


def test_it_stands_at_the_end_of_a_pipeline():
    ours = cross_val_score(make_pipeline(StandardScaler(), FewShotClassifier(device="cpu")), DIGITS, NAMES, cv=3)
    with pytest.warns(UserWarning, match="zero standard deviation"):
        theirs = cross_val_score(make_pipeline(StandardScaler(), NearestCentroid()), DIGITS, NAMES, cv=3)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("learner", ["prototypical", "matching"])
def test_the_nearest_support_item_is_so_as_the_learner_compares(learner):
    classifier = FewShotClassifier(device="cpu", learner=learner).fit(DIGITS[:30], NAMES[:30])
    differ = 0
    for answer, query in zip(classifier.answers(DIGITS[30:60]), DIGITS[30:60], strict=True):
        cosines = [x @ query / np.linalg.norm(x) / np.linalg.norm(query) for x in DIGITS[:30]]
        distances = [np.linalg.norm(x - query) for x in DIGITS[:30]]
        assert answer.nearest == (np.argmin(distances) if learner == "prototypical" else np.argmax(cosines))
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
    assert (ours.predict(X[900:]) == theirs.predict(X[900:] - offset)).mean() > 0.999
    ours.save(tmp_path / "f.safetensors")
    loaded = FewShotClassifier.load(tmp_path / "f.safetensors", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(X[900:]), ours.predict_proba(X[900:]))


def test_answers_that_are_no_numbers_are_refused():
    classifier = FewShotClassifier(device="cpu").fit(DIGITS[:30], NAMES[:30])
    with pytest.raises(ValueError, match="answers are no finite numbers: scale the features"):
        classifier.predict_proba(DIGITS * 1e30)


def test_a_setting_of_the_runs_own_learner_can_be_changed(run):
    folder, y = run("learner=prototypical", "learner.temperature=64"), STORE.labels[SUPPORT].numpy()
    logits = [
        FewShotClassifier(folder, options=options, device="cpu")
        .fit(STORE.images[SUPPORT], y)
        .decision_function(STORE.images[QUERY])
        for options in ((), ("learner.temperature=16",))
    ]
    np.testing.assert_allclose(logits[1], 4 * logits[0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"unknown option 'learner\.heat'"):
        FewShotClassifier(folder, options=("learner.heat=1",), device="cpu").fit(STORE.images[SUPPORT], y)


def test_new_examples_are_treated_as_the_saved_ones_were(run, tmp_path):
    y, file = STORE.labels[SUPPORT].numpy(), str(tmp_path / "f.safetensors")
    saved = FewShotClassifier(run(), device="cpu", invert=True, abstain=0.4).fit(STORE.images[SUPPORT], y)
    saved.save(file)
    again = FewShotClassifier(file, device="cpu").fit(STORE.images[SUPPORT], y)
    assert again.threshold_ == 0.4
    np.testing.assert_array_equal(again.predict_proba(STORE.images[QUERY]), saved.predict_proba(STORE.images[QUERY]))
    other = FewShotClassifier(file, device="cpu", invert=False, abstain=0).fit(255 - STORE.images[SUPPORT], y)
    assert other.threshold_ == 0
    np.testing.assert_array_equal(
        other.predict_proba(255 - STORE.images[QUERY]), saved.predict_proba(STORE.images[QUERY])
    )


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
    classifier = FewShotClassifier(abstain="auto", error=0.02, **settings).fit(X, y, extra)
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


def test_a_module_of_ones_own_is_copied_and_left_as_it_is():
    backbone = Conv4(1, 16, widths=[8, 8, 8, 8]).train()
    form = PictureForm(1, 16, mean=(0.5,), std=(0.25,))
    classifier = FewShotClassifier(backbone, pictures=form, device="cpu", options=LARGE)
    classifier.fit(STORE.images[SUPPORT], STORE.labels[SUPPORT].numpy())
    assert backbone.training
    images = (STORE.images.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        z = backbone.eval()(images)
        centers = torch.stack([z[SUPPORT][STORE.labels[SUPPORT] == c].mean(0) for c in range(3)])
        wanted = -(z[QUERY][:, None] - centers).square().sum(-1) / 64
        before = classifier.decision_function(STORE.images[QUERY])
        np.testing.assert_allclose(before, wanted, rtol=1e-3, atol=1e-3)
        for weight in backbone.parameters():
            weight.zero_()
    np.testing.assert_array_equal(classifier.decision_function(STORE.images[QUERY]), before)
    arrays = STORE.images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(classifier.decision_function(list(arrays[QUERY])), before)
    with pytest.raises(ValueError, match="a module of yours cannot be built"):
        classifier.save("never.safetensors")


def test_inverted_pictures_are_answered_as_the_others(run):
    folder, y = run(), STORE.labels[SUPPORT].numpy()
    plain = FewShotClassifier(folder, device="cpu").fit(STORE.images[SUPPORT], y)
    turned = FewShotClassifier(folder, device="cpu", invert=True).fit(255 - STORE.images[SUPPORT], y)
    np.testing.assert_array_equal(
        turned.predict_proba(255 - STORE.images[QUERY]), plain.predict_proba(STORE.images[QUERY])
    )


@pytest.mark.parametrize("names", [["x", "y", "ü"], [3, 1, 2], [True, False, True]])
def test_a_file_answers_bit_by_bit_alike_in_a_fresh_process(run, tmp_path, names):
    names = np.array(names)[STORE.labels]
    classifier = FewShotClassifier(run("semi=masked_soft_kmeans"), device="cpu", abstain="auto", error=0.5)
    classifier.fit(STORE.images[SUPPORT], names[SUPPORT], STORE.images[UNLABELED]).save(tmp_path / "f.safetensors")
    np.save(tmp_path / "query.npy", STORE.images[QUERY].permute(0, 2, 3, 1).numpy())
    code = (
        "import sys, numpy as np, torch; from episodic import FewShotClassifier; folder = sys.argv[1]\n"
        "torch.set_num_threads(int(sys.argv[2]))\n"
        "c = FewShotClassifier.load(folder + '/f.safetensors', device='cpu'); q = np.load(folder + '/query.npy')\n"
        "np.savez(folder + '/out.npz', p=c.predict_proba(q), y=c.predict(q), t=c.threshold_)"
    )
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", code, str(tmp_path), threads], check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["p"], classifier.predict_proba(STORE.images[QUERY]))
        np.testing.assert_array_equal(out["y"], classifier.predict(STORE.images[QUERY]))
        assert out["t"] == classifier.threshold_


def test_a_file_of_features_can_be_fitted_anew(tmp_path):
    path = tmp_path / "f.safetensors"
    FewShotClassifier(device="cpu", options=LARGE).fit(DIGITS[:30], NAMES[:30]).save(path)
    loaded = FewShotClassifier.load(path, device="cpu")
    again = clone(loaded).fit(DIGITS[30:90], NAMES[30:90])
    wanted = FewShotClassifier(device="cpu", options=LARGE).fit(DIGITS[30:90], NAMES[30:90])
    np.testing.assert_array_equal(again.predict_proba(DIGITS), wanted.predict_proba(DIGITS))
    with pytest.raises(ValueError, match="3 features"):
        loaded.predict(DIGITS[:, :3])


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    whole = tmp_path / "f.safetensors"
    FewShotClassifier(device="cpu").fit(DIGITS[:30], NAMES[:30]).save(whole)
    data = whole.read_bytes()
    for n in (0, 4, 100, len(data) // 2, len(data) - 1):
        whole.write_bytes(data[:n])
        with pytest.raises(ValueError, match=r"is no whole file that FewShotClassifier\.save wrote"):
            FewShotClassifier.load(whole)
    save_file({"x": torch.zeros(2)}, whole)
    with pytest.raises(ValueError, match=r"is no whole file that FewShotClassifier\.save wrote"):
        FewShotClassifier.load(whole)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        FewShotClassifier.load(tmp_path / "gone.safetensors")


class Pair(nn.Module):
    def forward(self, images):
        return images, images


CONV, TINY = Conv4(3, 16, widths=[8, 8, 8, 8]), PictureForm(3, 16)
IMAGES = np.zeros((4, 16, 16, 3), dtype=np.uint8)
BAD = [
    ({}, DIGITS[:4], [1, 1, 1, 1], r"at least two classes are needed, got 1 class"),
    ({}, DIGITS[:4], [1, 2, 3], "inconsistent numbers of samples"),
    ({}, np.where(DIGITS[:4] > 3, np.nan, 0), [1, 1, 2, 2], "NaN"),
    ({}, DIGITS[0], [1], "1D array|2D array"),
    ({}, DIGITS[:4], [0.5, 1.5, 2.5, 0.1], "Unknown label type"),
    ({"abstain": 1.5}, DIGITS[:4], [1, 1, 2, 2], "abstain must be None, 'auto' or a probability"),
    ({"abstain": "often"}, DIGITS[:4], [1, 1, 2, 2], "abstain must be None, 'auto' or a probability"),
    ({"abstain": True}, DIGITS[:4], [1, 1, 2, 2], "abstain must be"),
    ({"abstain": "auto", "error": 2}, DIGITS[:4], [1, 1, 2, 2], "error must be a share"),
    ({"abstain": "auto"}, DIGITS[:4], [1, 2, 3, 4], "each class has one only: give a number, abstain=0.6"),
    ({"learner": "protypical"}, DIGITS[:4], [1, 1, 2, 2], "Did you mean 'prototypical'"),
    ({"learner": "maml"}, DIGITS[:4], [1, 1, 2, 2], "MAML has weights that only training gives"),
    ({"semi": "masked_soft_kmeans"}, DIGITS[:4], [1, 1, 2, 2], "has weights that only training gives"),
    ({"semi": "soft_means"}, DIGITS[:4], [1, 1, 2, 2], "unknown semi=soft_means"),
    ({"options": ("learner.heat=1",)}, DIGITS[:4], [1, 1, 2, 2], "unknown option 'learner.heat'"),
    ({"device": "tpu9"}, DIGITS[:4], [1, 1, 2, 2], "device must be"),
    ({"model": "nowhere"}, IMAGES, [1, 1, 2, 2], "nowhere is not a run"),
    ({"model": 7}, IMAGES, [1, 1, 2, 2], "model must be a run's folder"),
    ({"model": CONV, "pictures": PictureForm(1, 16)}, IMAGES, [1, 1, 2, 2], r"no embeddings of images \[1, 1, 16, 16\]"),
    ({"model": nn.Flatten(0), "pictures": TINY}, IMAGES, [1, 1, 2, 2], "must give an embedding"),
    ({"model": Pair(), "pictures": TINY}, IMAGES, [1, 1, 2, 2], "gives no embeddings"),
    ({"model": CONV}, IMAGES, [1, 2, 1], "inconsistent numbers of samples"),
    ({"model": CONV}, DIGITS[:4], [1, 1, 2, 2], "picture 0: an array must be uint8"),
    ({"model": CONV}, ["gone.png", "away.png"], [1, 2], "gone.png: No such file"),
    ({"model": CONV, "pictures": TINY}, IMAGES[0], [1, 2] * 8, "got one ndarray: put it into a list"),
    ({"model": CONV}, [], [], r"at least two classes are needed, got 0 class"),
    ({"model": CONV}, ["gone.png"] * 2, [None, "a"], "label|class"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "X", "y", "message"), BAD)
def test_what_cannot_be_used_is_said(settings, X, y, message):
    with pytest.raises((ValueError, OSError), match=message):
        FewShotClassifier(**{"device": "cpu", **settings}).fit(X, y)


def test_unlabeled_items_need_something_that_uses_them():
    with pytest.raises(ValueError, match="nothing uses the unlabeled items: choose a wrapper"):
        FewShotClassifier(device="cpu").fit(DIGITS[:30], NAMES[:30], DIGITS[30:])
