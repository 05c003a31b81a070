import dataclasses

import numpy as np
import pytest
import torch

from episodic import EpisodeSampler
from episodic.core.functional.diffusion import PseudoLabels as Found
from episodic.data.augment import Normalize
from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.train.procedure import Setup
from episodic.train.pseudo_labels import PseudoLabelTraining
from tests.conftest import Features, random_store, random_task


def classifier(n_classes=3):
    torch.manual_seed(0)
    return BaseClassifier(Features(6), n_classes)


def test_it_answers_as_the_learner_whatever_the_unlabeled_items_are():
    learner = classifier()
    wrapper = PseudoLabels(learner).eval()
    learner.eval()
    for task in (random_task(n_unlabeled=7), random_task()):
        assert torch.equal(wrapper.classify(task).logits, learner.classify(task).logits)
        assert wrapper.classify(task).unlabeled is None
    assert not wrapper.capabilities.uses_unlabeled
    assert not wrapper.capabilities.transductive
    assert wrapper.capabilities.incremental
    assert wrapper.backbone is learner.backbone
    assert wrapper.capabilities.trainer == "pseudo_labels"
    assert "learner=base_classifier" in wrapper.capabilities.needs_init


def training_of(wrapper: PseudoLabels) -> PseudoLabelTraining:
    """On 2 x 3 pixels of 3 classes, half of them labeled; nothing is embedded before the first step."""
    images = torch.randint(256, (12, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    store = dataclasses.replace(random_store(classes=3, per_class=4), images=images)
    setup = Setup(
        learner=wrapper,
        store=store,
        normalize=Normalize([0.5], [0.3]),
        optimizer=lambda groups: torch.optim.SGD([{"params": group["params"]} for group in groups], lr=0.1),
        hardware=Hardware(torch.device("cpu"), torch.float32),
        episodes=lambda count, per_step: EpisodeSampler(store.labels, 2, 1, 1, episodes=count),
        labeled=np.arange(12) % 2 == 0,
    )
    return PseudoLabelTraining(setup, steps=5)


def test_labels_are_part_of_a_checkpoint_beside_the_learners_weights():
    wrapper = PseudoLabels(classifier())
    training = training_of(wrapper)
    training.take(Found(np.array([0, 2, -1]), np.array([1.0, 0.5, 0.0]), np.array([1.0, 0, 1]), 0.1))
    assert set(wrapper.state_dict()) == {"learner." + name for name in wrapper.learner.state_dict()}
    kept = training.state_dict()["tensors"]
    assert set(kept) == {"labels", "weights", "class_weights"}
    assert kept["labels"].tolist() == [0, 2, -1]


def test_the_loss_by_hand():
    """Items 3, 0 labeled; 1, 2, 4 not, and of these 4 without a pseudo-label. Cross-entropies from the definition."""
    training = training_of(PseudoLabels(classifier(), unlabeled_weight=0.5))
    labels, weights, zeta = np.array([2, 0, 1, 0, -1]), np.array([1, 0.7, 0.2, 1, 0]), np.array([0.5, 2.0, 1.5])
    training.take(Found(labels, weights, zeta, 0.0))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    items = [3, 0, 1, 2, 4]
    total = 0.0
    for row, i in zip(logits.double().numpy(), items, strict=True):
        if labels[i] >= 0:
            entropy = np.log(np.exp(row).sum()) - row[labels[i]]
            total += (1 if i in (0, 3) else 0.5) * weights[i] * zeta[labels[i]] * entropy
    loss = training.weighted_losses(logits, torch.tensor(items), torch.arange(len(items)) < 2).mean()
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbors": 0}, "neighbors must be an integer, at least 1"),
        ({"iterations": 0}, "iterations must be an integer, at least 1"),
        ({"gamma": 0}, "gamma must be a number, above 0"),
        ({"alpha": 1.0}, "alpha must be a number, at least 0 and below 1"),
        ({"labeled_per_batch": 100}, "below 100 .*batch.*, got 100"),
        ({"labeled_per_batch": 0}, "at least 1 and below"),
        ({"refresh_every": 0}, "refresh_every must be an integer, at least 1"),
        ({"unlabeled_weight": -1}, "unlabeled_weight must be a number, at least 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabels(classifier(), **settings)


def test_settings_without_effect():
    assert PseudoLabels(classifier()).without_effect == {}
    idle = {"neighbors", "gamma", "iterations", "refresh_every", "relative_weights"}
    assert PseudoLabels(classifier(), alpha=0).without_effect.keys() == idle
    without = PseudoLabels(classifier(), unlabeled_weight=0).without_effect
    assert without.keys() == idle | {"alpha", "labeled_per_batch"}


@pytest.mark.parametrize(
    ("fixed", "changed"),
    [
        ({"unlabeled_weight": 0.0}, {"alpha": 0.5, "labeled_per_batch": 3}),
        ({"alpha": 0.0}, {}),
    ],
)
def test_settings_without_effect_have_none(fixed, changed):
    """Three steps of training: the same weights."""
    changed = {"neighbors": 2, "gamma": 1.0, "iterations": 3, "refresh_every": 2, "relative_weights": False, **changed}
    assert PseudoLabels(classifier(), **fixed).without_effect.keys() == changed.keys()
    small = {"batch": 6, "labeled_per_batch": 2, "neighbors": 4}
    plain, other = (PseudoLabels(classifier(), **{**small, **more, **fixed}) for more in ({}, changed))
    start = plain.learner.base.weight.clone()
    for wrapper in (plain, other):
        training = training_of(wrapper)
        for _ in range(3):
            training.training_step()
    assert not torch.equal(plain.learner.base.weight, start)
    assert torch.equal(plain.learner.base.weight, other.learner.base.weight)


def test_another_learner_is_refused():
    with pytest.raises(ValueError, match=r"takes learner=base_classifier, got Prototypical"):
        PseudoLabels(Prototypical(Features(6)))
