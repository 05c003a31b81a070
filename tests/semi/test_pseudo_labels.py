import numpy as np
import pytest
import torch

from episodic.core.functional.diffusion import PseudoLabels as Found
from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.prototypical import Prototypical
from episodic.semi.pseudo_labels import PseudoLabels
from tests.conftest import Features, random_task


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
    assert not wrapper.uses_unlabeled
    assert not wrapper.transductive
    assert wrapper.incremental
    assert wrapper.backbone is learner.backbone
    assert "learner=base_classifier" in wrapper.needs_init


def test_labels_are_part_of_a_checkpoint_once_there_are_any():
    wrapper = PseudoLabels(classifier())
    own = {"learner." + name for name in wrapper.learner.state_dict()}
    assert set(wrapper.state_dict()) == own
    wrapper.take(Found(np.array([0, 2, -1]), np.array([1.0, 0.5, 0.0]), np.array([1.0, 0, 1]), 0.1))
    assert set(wrapper.state_dict()) == own | {"labels", "weights", "class_weights"}
    assert wrapper.labels.tolist() == [0, 2, -1]


def test_the_loss_by_hand():
    """Items 3, 0 labeled; 1, 2, 4 not, and of these 4 without a pseudo-label. Cross-entropies from the definition."""
    wrapper = PseudoLabels(classifier(), unlabeled_weight=0.5)
    labels, weights, zeta = np.array([2, 0, 1, 0, -1]), np.array([1, 0.7, 0.2, 1, 0]), np.array([0.5, 2.0, 1.5])
    wrapper.take(Found(labels, weights, zeta, 0.0))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    items = [3, 0, 1, 2, 4]
    total = 0.0
    for row, i in zip(logits.double().numpy(), items, strict=True):
        if labels[i] >= 0:
            entropy = np.log(np.exp(row).sum()) - row[labels[i]]
            total += (1 if i in (0, 3) else 0.5) * weights[i] * zeta[labels[i]] * entropy
    loss = wrapper.loss(logits, torch.tensor(items), 2)
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbors": 0}, "neighbors and iterations of at least 1"),
        ({"iterations": 0}, "neighbors and iterations of at least 1"),
        ({"gamma": 0}, "a positive gamma"),
        ({"alpha": 1.0}, r"alpha in \[0, 1\)"),
        ({"labeled_per_batch": 100}, "below batch=100, got 100"),
        ({"labeled_per_batch": 0}, "at least 1 and below"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
        ({"unlabeled_weight": -1}, "unlabeled_weight must be at least 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabels(classifier(), **settings)


def test_another_learner_is_refused():
    with pytest.raises(ValueError, match=r"takes learner=base_classifier, got Prototypical"):
        PseudoLabels(Prototypical(Features(6)))
