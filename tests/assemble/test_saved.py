"""A saved file answers as the classifier did that wrote it, and a damaged or another one is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
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


def pets(path):
    """A saved file of features, as its facts and its tensors."""
    FewShotClassifier(device="cpu").fit([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ["cat", "dog", "cat"]).save(path)
    with safe_open(path, framework="pt") as file:
        [(key, facts)] = file.metadata().items()
        return key, json.loads(facts), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


WRONG_FACTS = [
    {"classes_": ["V9", ["a", "b"]]},
    {"classes_": ["O", [["a"], "b"]]},
    {"classes_": ["<U3", ["a"]]},
    {"classes_": ["<i8", ["a", "b"]]},
    {"classes_": 3},
    {"names_": "abc"},
    {"names_": ["a"]},
    {"names_": [1, 2, 3]},
    {"left_out_": "many"},
    {"threshold_": "high"},
    {"threshold_": None},
    {"threshold_": float("nan")},
    {"threshold_": True},
    {"threshold_": 2},
    {"left_out_": -3},
    {"names_": []},
    {"classes_": ["<U3", ["cat", "cat"]]},
    {"classes_": ["<U3", ["dog", "cat"]]},
    {"settings": {}},
    {"settings": {"invert": 1, "abstain": None, "max_error": 0.1, "precision": "fp32"}},
    {"form": {"size": -3}},
    {"form": {"colors": 3}},
    {"form": 3},
    {"config": 3},
    {"config": {"learner": {"_args_": [1]}}},
    {"config": "DEEP"},
    {"classes_": "DEEP"},
]
WRONG_TENSORS = [
    {"support": torch.zeros(3, 2, dtype=torch.float64)},
    {"support": torch.zeros(3)},
    {"support": torch.full((3, 2), torch.nan)},
    {"support_y": torch.tensor([0, 1, 7])},
    {"support_y": torch.tensor([0, 1, -1])},
    {"support_y": torch.tensor([0, 0, 0])},
    {"support_y": torch.tensor([0.0, 1.0, 0.0])},
    {"support_y": torch.tensor([0, 1])},
    {"origin": torch.full((2,), torch.inf)},
    {"origin": torch.zeros(5, dtype=torch.float64)},
    {"origin": torch.zeros(2, 1, dtype=torch.float64)},
    {"origin": torch.zeros(2, dtype=torch.bfloat16)},
    {"unlabeled": torch.zeros(2, 7)},
]


@pytest.mark.parametrize("changes", WRONG_FACTS, ids=lambda changes: str(changes)[:40])
def test_facts_that_were_never_written_are_refused(tmp_path, changes):
    key, facts, tensors = pets(tmp_path / "f.safetensors")
    written = json.dumps(facts | changes).replace('"DEEP"', "[" * 3000 + "]" * 3000)
    save_file(tensors, tmp_path / "f.safetensors", {key: written})
    with pytest.raises(ValueError, match="is no whole file") as refused:
        FewShotClassifier.load(tmp_path / "f.safetensors")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["config", "form", "classes_", "settings", "threshold_"])
def test_a_fact_that_is_missing_is_told(tmp_path, name):
    key, facts, tensors = pets(tmp_path / "f.safetensors")
    del facts[name]
    save_file(tensors, tmp_path / "f.safetensors", {key: json.dumps(facts)})
    with pytest.raises(ValueError, match="is no whole file"):
        FewShotClassifier.load(tmp_path / "f.safetensors")


@pytest.mark.parametrize("changes", WRONG_TENSORS, ids=lambda changes: " ".join(changes))
def test_examples_that_were_never_written_are_refused(tmp_path, changes):
    key, facts, tensors = pets(tmp_path / "f.safetensors")
    save_file(tensors | changes, tmp_path / "f.safetensors", {key: json.dumps(facts)})
    with pytest.raises(ValueError, match="is no whole file"):
        FewShotClassifier.load(tmp_path / "f.safetensors")


def test_a_width_of_names_that_the_file_only_states_takes_no_memory(tmp_path):
    key, facts, tensors = pets(tmp_path / "f.safetensors")
    facts["classes_"][0] = "<U1000000000"
    save_file(tensors, tmp_path / "f.safetensors", {key: json.dumps(facts)})
    assert FewShotClassifier.load(tmp_path / "f.safetensors").classes_.dtype.str == "<U3"


def test_a_file_without_tensors_is_refused(tmp_path):
    key, facts, _ = pets(tmp_path / "f.safetensors")
    save_file({}, tmp_path / "f.safetensors", {key: json.dumps(facts)})
    with pytest.raises(ValueError, match="is no whole file"):
        FewShotClassifier.load(tmp_path / "f.safetensors")


def test_a_file_downloads_nothing(tmp_path, monkeypatch):
    key, facts, tensors = pets(tmp_path / "f.safetensors")
    facts["config"]["backbone"] = {
        "_target_": "episodic.core.backbones.pretrained.Pretrained",
        "name": "shufflenet_v2_x0_5",
        "image_size": 32,
        "weights": "default",
    }
    save_file(tensors, tmp_path / "f.safetensors", {key: json.dumps(facts)})
    asked = []
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *given, **_: asked.append(given))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="has no weights for backbone"):
        FewShotClassifier.load(tmp_path / "f.safetensors", device="cpu")
    assert not asked
