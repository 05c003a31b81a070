"""Calibration: that of scikit-learn, and its error that of a loop over bins."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from episodic.evaluate.calibration import calibration


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
