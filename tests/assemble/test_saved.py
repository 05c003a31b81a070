"""A saved file answers as the classifier did that wrote it, and a damaged or another one is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.datasets import load_digits

from episodic import FewShotClassifier
from tests.assemble.small import QUERY, STORE, SUPPORT, UNLABELED

DIGITS, NAMES = load_digits(return_X_y=True)
LARGE = ("learner.temperature=64",)


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


def test_files_answer_bit_by_bit_alike_in_a_fresh_process(run, tmp_path):
    folder, made = run("semi=masked_soft_kmeans"), []
    for i, names in enumerate((["x", "y", "ü"], [3, 1, 2], [True, False, True])):
        names = np.array(names)[STORE.labels]
        classifier = FewShotClassifier(folder, device="cpu", abstain="auto", max_error=0.5)
        classifier.fit(STORE.images[SUPPORT], names[SUPPORT], STORE.images[UNLABELED])
        classifier.save(tmp_path / f"{i}.safetensors")
        made.append(classifier)
    np.save(tmp_path / "query.npy", STORE.images[QUERY].permute(0, 2, 3, 1).numpy())
    code = (
        "import sys, numpy as np, torch; from episodic import FewShotClassifier; folder = sys.argv[1]\n"
        "torch.set_num_threads(int(sys.argv[2])); q = np.load(folder + '/query.npy')\n"
        "for i in range(3):\n"
        "    c = FewShotClassifier.load(f'{folder}/{i}.safetensors', device='cpu')\n"
        "    np.savez(f'{folder}/{i}.npz', p=c.predict_proba(q), y=c.predict(q), t=c.threshold_)"
    )
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", code, str(tmp_path), threads], check=True, capture_output=True)
    for i, classifier in enumerate(made):
        with np.load(tmp_path / f"{i}.npz") as out:
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
