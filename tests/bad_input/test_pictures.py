"""Pictures, augmentation, labels of a split, and classifiers, given what they cannot use."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from episodic import FewShotClassifier, load
from episodic.assemble.predictor import Predictor
from episodic.data.augment import Augment, Normalize
from episodic.data.image import PictureForm, as_pictures, decode_image
from episodic.data.labels.folds import fold_of
from episodic.data.labels.fraction import labeled_mask
from episodic.data.labels.held_out import held_out_masks
from episodic.data.sets.folder import Folder
from tests.bad_input import HUGE, INF, NAN, SKLEARN, Call, complaint
from tests.bad_input.test_episodes import BAD_LABELS, Column
from tests.conftest import random_store

LABELS = [c for c in range(6) for _ in range(12)]
GRAY = np.zeros((8, 8), dtype=np.uint8)
FORM = PictureForm(channels=1, size=8)
POINTS, NAMES = [[0.0, 0], [0, 1], [9, 9], [9, 8]], ["a", "a", "b", "b"]
NO_NUMBERS = ["0.5", None, True, NAN, INF, -INF, [0.5], 1j]
NO_INTEGERS = ["3", 1.5, 2.0, None, True, NAN, INF, [3]]


def picture_calls() -> Iterator[Call]:
    for name in ("mean", "std"):
        for value in ("abc", 0.5, [0.5, 0.5], ["a"], [NAN], [INF], [None], [True], torch.tensor([[0.5]]), {}, [[0.5]]):
            yield f"PictureForm({name}={value!r})", name, functools.partial(PictureForm, channels=1, **{name: value})
            if np.shape(value) != (2,):
                call = functools.partial(Normalize, **{"mean": [0.5], "std": [0.5], name: value})
                yield f"Normalize({name}={value!r})", name, call
    for value in ([0.0], [-1.0]):
        yield f"PictureForm(std={value})", "std", functools.partial(PictureForm, channels=1, std=value)
        yield f"Normalize(std={value})", "std", functools.partial(Normalize, [0.5], value)
    yield "Normalize of other lengths", "std", lambda: Normalize([0.5, 0.5], [0.5])
    yield "Normalize(None)", "mean", lambda: Normalize(None, [0.5])
    yield "Normalize without numbers", "mean", lambda: Normalize([], [])
    yield "Normalize(str)", "mean", lambda: Normalize("0.5", [0.5])
    for value in (1.0, 1.5):
        yield f"Augment(jitter={value})", "jitter", functools.partial(Augment, jitter=value)
    for value in (
        "abc",
        [0.5, 0.5],
        [0.5, 0.5, 0.5],
        [1, 0, 0],
        [NAN, 0.5, 0.5],
        None,
        0.5,
        ["a", "b", "c"],
        [True, 0, 0],
    ):
        yield f"Folder(fractions={value!r})", "fractions", functools.partial(Folder, ".", fractions=value)
    for value in (None, 3, ["a"], True):
        yield f"Folder({value!r})", "path", functools.partial(Folder, value)
    for value in (0, 2, 4):
        yield f"Folder(channels={value})", "channels", functools.partial(Folder, ".", channels=value)
        yield f"PictureForm(channels={value})", "channels", functools.partial(PictureForm, value)
    for name, value in (
        ("size", "8"),
        ("size", 0),
        ("size", 8.0),
        ("channels", 2),
        ("channels", "1"),
        ("resize", "stretch"),
        ("resize", None),
    ):
        settings = {"channels": 1, "size": 8, name: value}
        yield f"decode_image({name}={value!r})", name, functools.partial(decode_image, "no.png", **settings)
    for value in (None, 3, b"bytes", ["a.png"], GRAY):
        yield (
            f"decode_image({type(value).__name__})",
            "picture",
            functools.partial(decode_image, value, channels=1, size=8),
        )
    yield "decode_image of no file", "no.png", lambda: decode_image("no.png", channels=1, size=8)
    items = {
        "None": None,
        "a number": 3,
        "a path": "a.png",
        "bytes": b"bytes",
        "a picture": Image.fromarray(GRAY),
        "nothing": [],
        "a None": [None],
        "a number among them": [GRAY, 3],
        "floats": [GRAY / 255],
        "int64": [GRAY.astype(int)],
        "strings": np.array([["a"]]),
        "generator": (GRAY for _ in range(2)),
        "five channels": [np.zeros((8, 8, 5), np.uint8)],
        "one axis": [np.zeros(8, np.uint8)],
        "nothing in it": [GRAY[:0]],
        "a tensor of floats": torch.zeros(2, 1, 8, 8),
        "a tensor of other size": torch.zeros(2, 1, 9, 8, dtype=torch.uint8),
        "a tensor of one": torch.zeros(1, 8, 8, dtype=torch.uint8),
        "an empty tensor": torch.zeros(0, 1, 8, 8, dtype=torch.uint8),
        "a dict": {"a": GRAY},
        "a set": {"a.png"},
    }
    for name, value in items.items():
        yield f"as_pictures: {name}", "picture", functools.partial(as_pictures, value, FORM)
    for value in (None, (1, 8), "form"):
        yield f"as_pictures(form={value!r})", "form", functools.partial(as_pictures, [GRAY], value)


def label_calls() -> Iterator[Call]:
    store = random_store()
    for name, labels in BAD_LABELS.items():
        if not name.startswith("an empty"):
            yield f"labeled_mask: {name}", "labels", functools.partial(labeled_mask, labels, 0.5, 0)
            yield f"held_out_masks: {name}", "labels", functools.partial(held_out_masks, labels, 0.5)
    for value in (*NO_NUMBERS, 0, -0.1, 1.1):
        yield f"labeled_mask(fraction={value!r})", "fraction", functools.partial(labeled_mask, LABELS, value, 0)
    for value in (*NO_NUMBERS, 0, -0.1, 1.0, 1.1):
        yield (
            f"held_out_masks(fraction={value!r})",
            "held_out",
            functools.partial(held_out_masks, np.array(LABELS), value),
        )
    for value in NO_INTEGERS:
        yield f"labeled_mask(seed={value!r})", "seed", functools.partial(labeled_mask, LABELS, 0.5, value)
        yield f"fold={value!r}", "fold", functools.partial(fold_of, store, "val", value, 4)
        yield f"folds={value!r}", "folds", functools.partial(fold_of, store, "val", 0, value)
    for fold, folds in ((4, 4), (-1, 4), (0, 1), (0, 0), (0, 9), (0, HUGE)):
        yield f"fold {fold} of {folds}", "fold", functools.partial(fold_of, store, "val", fold, folds)
    for value in ("valid", None, 1, "test"):
        yield f"fold_of(split={value!r})", "split", functools.partial(fold_of, store, value, 0, 4)


def fitted(kind, X=POINTS, y=NAMES, unlabeled=None, **settings):
    given = {} if unlabeled is None else {"unlabeled": unlabeled}
    return kind(**settings).fit(X, y, **given)


SETTINGS = {
    "abstain": ["often", 1.5, -0.1, True, NAN, [0.5], 1j],
    "max_error": ["0.1", 1.0, 1.5, -0.1, True, NAN, [0.1]],
    "invert": ["no", 0, 1, [True], 1.0],
    "learner": ["protypical", 3, True, ["prototypical"], ""],
    "semi": ["soft_means", 3, True, [3], [None], {"soft_kmeans": 1}],
    "options": ["learner.temperature=64", [3], 3, None, ["learner.heat=1"], ["learner.temperature"], [""]],
    "pictures": [3, "crop", (1, 8), {}],
    "device": ["tpu9", 3, None, True, ["cpu"]],
    "precision": ["fp8", 3, True, 32],
    "model": [3, True, ["runs/x"], b"runs", 1.5],
}
BAD_NAMES = {
    "one class": ["a"] * 4,
    "fewer": ["a", "b"],
    "more": [*NAMES, "a"],
    "None": None,
    "a None": ["a", "a", "b", None],
    "NaN": [0, 0, 1, NAN],
    "halves": [0.5, 0.5, 1.5, 1.5],
    "two axes": [["a", "a"], ["b", "b"]] * 2,
    "ragged": [["a"], ["b", "c"], ["a"], ["b"]],
    "a string": "aabb",
    "a number": 3,
    "a dict": {"a": 1},
}
BAD_POINTS = {
    "None": None,
    "a number": 3,
    "a string": "abcd",
    "strings": [["a", "b"]] * 4,
    "one axis": [1.0, 2.0, 3.0, 4.0],
    "three axes": np.zeros((4, 2, 2)),
    "ragged": [[0.0], [1.0, 2.0], [3.0], [4.0]],
    "NaN": [[0.0, NAN]] * 4,
    "inf": [[0.0, INF]] * 4,
    "None among them": [[0.0, None]] * 4,
    "no features": np.zeros((4, 0)),
    "complex": np.zeros((4, 2)) + 1j,
    "a dict": {"a": POINTS},
    "empty": [],
}


def setting_calls() -> Iterator[Call]:
    for kind, (name, values) in itertools.product((FewShotClassifier, Predictor), SETTINGS.items()):
        for value in values:
            word = "learner.heat" if value == ["learner.heat=1"] else name
            yield f"{kind.__name__}({name}={value!r})", word, functools.partial(fitted, kind, **{name: value})
        yield f"{kind.__name__}(learner=maml)", "weights", functools.partial(fitted, kind, learner="maml")
        yield f"{kind.__name__}(no such run)", "nowhere", functools.partial(fitted, kind, model="nowhere")
        hot = functools.partial(fitted, kind, options=["learner.temperature=hot"])
        yield f"{kind.__name__}(options of a wrong type)", "temperature", hot


def example_calls() -> Iterator[Call]:
    for name, y in BAD_NAMES.items():
        yield f"Predictor.fit, names: {name}", "", functools.partial(fitted, Predictor, y=y)
        yield f"FewShotClassifier.fit, names: {name}", SKLEARN, functools.partial(fitted, FewShotClassifier, y=y)
    for (name, X), kind in itertools.product(BAD_POINTS.items(), (Predictor, FewShotClassifier)):
        word = "X must be features" if kind is Predictor else SKLEARN
        yield f"{kind.__name__}.fit: {name}", word, functools.partial(fitted, kind, X)
        yield f"{kind.__name__}.predict_proba: {name}", word, functools.partial(fitted(kind).predict_proba, X)
        if X is not None:
            call = functools.partial(fitted, kind, unlabeled=X, semi="soft_kmeans")
            yield f"{kind.__name__}.fit, unlabeled: {name}", word, call
    yield "Predictor.fit: a generator", "X must be features", lambda: fitted(Predictor, (x for x in POINTS))
    yield "Predictor.fit: names from a generator", "y must be", lambda: fitted(Predictor, y=(y for y in NAMES))
    for kind in (FewShotClassifier, Predictor):
        yield (
            f"{kind.__name__}: other features",
            "features",
            functools.partial(fitted(kind).predict_proba, [[1.0, 2, 3]]),
        )
        yield f"{kind.__name__}: unlabeled without use", "unlabeled", functools.partial(fitted, kind, unlabeled=POINTS)
        yield f"{kind.__name__}: not fitted", "fit", functools.partial(kind().predict_proba, POINTS)
        yield f"{kind.__name__}: save before fit", "fit", functools.partial(kind().save, "x")
        yield (
            f"{kind.__name__}: a module on features",
            "picture",
            functools.partial(fitted, kind, model=nn.Linear(2, 2)),
        )
        for value in ("nowhere.safetensors", "."):
            yield f"{kind.__name__}.load({value!r})", value, functools.partial(kind.load, value)
        for value in (None, 3, True, b"x"):
            yield f"{kind.__name__}.load({value!r})", "path", functools.partial(kind.load, value)
            yield f"{kind.__name__}.save({value!r})", "path", functools.partial(fitted(kind).save, value)
    for value in ("nowhere", ".", "README.md"):
        yield f"load({value!r})", value, functools.partial(load, value)
    for value in (None, 3, True, ["runs"]):
        yield f"load({value!r})", "path", functools.partial(load, value)


BAD = [picture_calls, label_calls, setting_calls, example_calls]


@pytest.mark.parametrize("calls", BAD, ids=lambda calls: calls.__name__)
def test_one_line_names_the_argument(calls):
    wrong = [(what, complaint(call, word)) for what, word, call in calls()]
    assert len(wrong) > 30
    assert [(what, why) for what, why in wrong if why] == []


def test_settings_of_any_kind_are_the_same():
    for mean in (
        (0.5,),
        [0.5],
        np.array([0.5]),
        torch.tensor([0.5]),
        [np.float32(0.5)],
        [torch.tensor(0.5)],
        Column([0.5]),
    ):
        assert PictureForm(np.int64(1), np.int32(8), mean=mean, std=mean) == PictureForm(1, 8, (0.5,), (0.5,))
        assert Normalize(mean, mean).mean.tolist() == [[[0.5]]]
    assert (labeled_mask(Column(LABELS), np.float64(0.5), np.int64(3)) == labeled_mask(LABELS, 0.5, 3)).all()
    assert held_out_masks(LABELS, 0.5)["val"].sum() == held_out_masks(np.array(LABELS), 0.5)["val"].sum() == 18
    assert fold_of(random_store(), "val", np.int64(1), np.int64(4)).class_names == ("train2", "train3")


@pytest.mark.parametrize("kind", [FewShotClassifier, Predictor])
def test_names_of_any_kind(kind):
    for names in (
        NAMES,
        tuple(NAMES),
        np.array(NAMES),
        [0, 0, 1, 1],
        torch.tensor([0, 0, 1, 1]),
        [True, True, False, False],
        Column(NAMES),
    ):
        answers = fitted(kind, y=names, abstain=np.float64(0.1), invert=np.bool_(False)).answers(np.array(POINTS))
        assert [answer.label for answer in answers] == list(np.asarray(names))
