"""The classifier keeps the manners of scikit-learn, and says what it cannot use."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from episodic import FewShotClassifier
from episodic.core.backbones.conv4 import Conv4
from episodic.data.image import PictureForm

DIGITS, NAMES = load_digits(return_X_y=True)
EXPECTED = {
    "check_do_not_raise_errors_in_init_or_set_params": "sets every argument to -1, which the type checker of the tests refuses",
}


@parametrize_with_checks([FewShotClassifier(device="cpu")], expected_failed_checks=lambda estimator: EXPECTED)
def test_it_is_an_estimator_of_scikit_learn(estimator, check):
    check(estimator)


def test_prototypes_of_features_are_the_nearest_centroid():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(300, 20)), random.integers(0, 6, 300)
    ours, theirs = FewShotClassifier(device="cpu").fit(X[:40], y[:40]), NearestCentroid().fit(X[:40], y[:40])
    distances = np.square(X[:, None] - theirs.centroids_).sum(-1)
    temperature = 20 / 4  # of 20 features
    np.testing.assert_allclose(ours.decision_function(X), -distances / temperature, rtol=1e-3, atol=1e-3)
    first, second = np.sort(distances)[:, :2].T
    clear = second - first > 0.01  # the others may go either way by rounding
    assert clear.mean() > 0.9
    assert (ours.predict(X) == theirs.predict(X))[clear].all()


def test_it_stands_at_the_end_of_a_pipeline():
    ours = cross_val_score(make_pipeline(StandardScaler(), FewShotClassifier(device="cpu")), DIGITS, NAMES, cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that are the same in all images
        theirs = cross_val_score(make_pipeline(StandardScaler(), NearestCentroid()), DIGITS, NAMES, cv=3)
    np.testing.assert_allclose(ours, theirs, atol=0.01)


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
    ({"abstain": 1.5}, DIGITS[:4], [1, 1, 2, 2], "abstain must be a number, .* a probability, or 'auto' or None"),
    ({"abstain": "often"}, DIGITS[:4], [1, 1, 2, 2], "abstain must be a number, .* a probability, or 'auto' or None"),
    ({"abstain": True}, DIGITS[:4], [1, 1, 2, 2], "abstain must be"),
    ({"abstain": "auto", "max_error": 2}, DIGITS[:4], [1, 1, 2, 2], "max_error must be a number, .* a share, got 2"),
    ({"abstain": "auto"}, DIGITS[:4], [1, 2, 3, 4], "each class has one only: give a number, abstain=0.6"),
    ({"learner": "protypical"}, DIGITS[:4], [1, 1, 2, 2], "Did you mean 'prototypical'"),
    ({"learner": "maml"}, DIGITS[:4], [1, 1, 2, 2], "MAML has weights that only training gives"),
    ({"semi": "masked_soft_kmeans"}, DIGITS[:4], [1, 1, 2, 2], "has weights that only training gives"),
    ({"semi": "soft_means"}, DIGITS[:4], [1, 1, 2, 2], "unknown semi=soft_means"),
    ({"options": ("learner.heat=1",)}, DIGITS[:4], [1, 1, 2, 2], "unknown option 'learner.heat'"),
    ({"device": "tpu9"}, DIGITS[:4], [1, 1, 2, 2], "device must be"),
    ({"model": "nowhere"}, IMAGES, [1, 1, 2, 2], "nowhere is no run"),
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
