"""What a model may be: each kind answers as evaluation does, or as a loop over its embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from episodic import EpisodeIndices, FewShotClassifier
from episodic.assemble.load import load_parts
from episodic.assemble.model_choice import with_parts
from episodic.assemble.predictor import Predictor
from episodic.config.compose import compose_config
from episodic.core.backbones.conv4 import Conv4
from episodic.data.image import PictureForm
from episodic.evaluate.scoring import episode_predictor
from episodic.run.device import Hardware
from episodic.run.run import Run
from tests.assemble.small import QUERY, STORE, SUPPORT, UNLABELED

DIGITS, NAMES = load_digits(return_X_y=True)
LARGE = ("learner.temperature=64",)


def as_evaluated(learner, normalize, unlabeled=()):
    """Logits of the queries by what evaluation asks the learner with."""
    y, few = STORE.labels.numpy(), np.array(unlabeled, dtype=np.int64)[None]
    indices = EpisodeIndices(
        SUPPORT[None], y[SUPPORT][None], QUERY[None], y[QUERY][None], few, y[few], np.array([[0, 1, 2]])
    )
    predict, _ = episode_predictor(learner, STORE, normalize, Hardware.choose("cpu", "fp32"))
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
    labels = np.searchsorted(["a", "b", "c"], classifier.predict(STORE.images[QUERY]))
    assert (wanted.numpy()[np.arange(len(QUERY)), labels] >= wanted.amax(-1).numpy() - 1e-3).all()
    alone = np.concatenate([classifier.decision_function(STORE.images[[q]]) for q in QUERY[:6]])
    assert np.allclose(alone, logits[:6], rtol=1e-4, atol=1e-4) != classifier.transductive_
    answers = classifier.answers(STORE.images[QUERY])
    assert [a.label for a in answers] == classifier.predict(STORE.images[QUERY]).tolist()


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


def test_every_kind_of_model_says_its_form_and_how_it_is_built(run, tmp_path):
    folder, y = run(), STORE.labels[SUPPORT].numpy()
    FewShotClassifier(folder, device="cpu").fit(STORE.images[SUPPORT], y).save(tmp_path / "f.safetensors")
    cfg = compose_config("predict", with_parts([f"run={folder}", "device=cpu"]))
    pretrained = compose_config("predict", with_parts(["backbone=conv4", "task.channels=1", "task.image_size=16"]))
    module = Conv4(1, 16, widths=[8, 8, 8, 8])
    built = {
        "run": Predictor(folder, device="cpu").build(),
        "file": Predictor(tmp_path / "f.safetensors", device="cpu").build(),
        "configuration": Predictor(cfg, device="cpu").build(),
        "backbone": Predictor(pretrained, device="cpu").build(),
        "module": Predictor(module, device="cpu").build(),
        "features": Predictor(device="cpu").build(),
    }
    forms = {name: model.form and (model.form.channels, model.form.size) for name, model in built.items()}
    assert forms == dict.fromkeys(built, (1, 16)) | {"features": None}
    assert [name for name, model in built.items() if model.config is None] == ["module"]
    assert built["run"].config == built["file"].config == built["configuration"].config
    weights = [built[name].learner.state_dict() for name in ("run", "file", "configuration")]
    for other in weights[1:]:
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


def test_wrappers_may_be_none_of_the_models(run):
    folder = run("semi=soft_kmeans")
    for semi, uses in ((None, True), ([], False), ("supervised", False), ("label_propagation", True)):
        assert Predictor(folder, semi=semi, device="cpu").build().learner.capabilities.uses_unlabeled == uses
