import dataclasses

import pytest
from torch import nn

from episodic.episodes.task import Task
from episodic.learners.attention_attractor import AttentionAttractor
from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.learner import AbstractMetricLearner, Capabilities
from episodic.learners.maml import MAML
from episodic.learners.prediction import Prediction
from episodic.learners.prototypical import Prototypical
from episodic.learners.tpn import TPN
from episodic.semi.label_propagation import LabelPropagation
from episodic.semi.masked_soft_kmeans import MaskedSoftKMeans
from episodic.semi.mean_teacher import MeanTeacher, MetricMeanTeacher
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.semi.self_training import SelfTraining
from episodic.semi.soft_kmeans import SoftKMeans
from episodic.semi.soft_kmeans_cluster import SoftKMeansCluster
from episodic.semi.supervised import supervised
from episodic.semi.wrapper import AbstractWrapper, check_metric_learner, unwrapped
from tests.conftest import Features, random_task


class Doubled(AbstractWrapper):
    """Twice the learner's logits where there are unlabeled items."""

    def __init__(self, learner: AbstractMetricLearner):
        super().__init__()
        self.learner = learner

    def classify_with_unlabeled(self, features: Task) -> Prediction:
        return Prediction(2 * self.learner.classify(features).logits)


def test_a_wrapper_is_asked_only_where_there_are_unlabeled_items():
    learner = Prototypical(Features(6))
    wrapper = Doubled(learner)
    for n_unlabeled, times in ((0, 1), (3, 2)):
        task = random_task(n_unlabeled=n_unlabeled)
        assert (wrapper(task).logits == times * learner(task).logits).all()


def test_a_wrapper_is_what_its_learner_is():
    inductive, transductive = Doubled(Prototypical(Features(6))), Doubled(TPN(Features(6, 2, 2)))
    assert inductive.capabilities == Capabilities(uses_unlabeled=True)
    assert transductive.capabilities == Capabilities(transductive=True, uses_unlabeled=True)
    learner = AttentionAttractor(Features(6), n_classes=3)
    wrapper = Doubled(learner)
    assert wrapper.backbone is learner.backbone
    assert wrapper.capabilities.incremental
    assert wrapper.capabilities.needs_init == learner.capabilities.needs_init != ""


class Everything(Prototypical):
    """A learner that can do all that there is, and asks for all."""

    capabilities = Capabilities(
        transductive=True, incremental=True, uses_unlabeled=False, n_views=3, needs_init="such a run", trainer="one"
    )


@pytest.mark.parametrize(
    ("wrap", "changes"),
    [
        (Doubled, {"uses_unlabeled": True}),
        (SoftKMeans, {"uses_unlabeled": True}),
        (SoftKMeansCluster, {"uses_unlabeled": True}),
        (MaskedSoftKMeans, {"uses_unlabeled": True}),
        (LabelPropagation, {"uses_unlabeled": True, "incremental": False}),
        (lambda learner: LabelPropagation(learner, transductive=True), {"uses_unlabeled": True, "incremental": False}),
        (MeanTeacher, {"uses_unlabeled": True, "n_views": 2}),
        (MetricMeanTeacher, {"uses_unlabeled": True, "n_views": 2}),
        (lambda learner: MeanTeacher(learner, weight=0), {"uses_unlabeled": True, "n_views": 2}),
        (supervised, {}),
    ],
)
def test_every_wrapper_hands_on_what_it_does_not_change(wrap, changes):
    learner = Everything(Features(6))
    assert wrap(learner).capabilities == dataclasses.replace(learner.capabilities, **changes)
    plain = Prototypical(Features(6))
    made = wrap(plain)
    adds = {"transductive": True} if getattr(made, "joint", False) else {}
    assert made.capabilities == dataclasses.replace(plain.capabilities, **{**changes, **adds})


def test_self_training_and_pseudo_labels_hand_on_the_rest_too():
    """They refuse the learner above: a transductive one, and one that is no classifier of the training classes."""
    learner = AttentionAttractor(Features(6), n_classes=3)  # incremental, needs a run to start from
    expected = dataclasses.replace(learner.capabilities, uses_unlabeled=True, incremental=False)
    assert SelfTraining(learner).capabilities == expected
    classifier = BaseClassifier(Features(6), n_classes=3)
    wrapper = PseudoLabels(classifier)
    expected = dataclasses.replace(
        classifier.capabilities, trainer="pseudo_labels", needs_init=wrapper.capabilities.needs_init
    )
    assert wrapper.capabilities == expected
    assert wrapper.capabilities.incremental
    assert "learner=base_classifier" in wrapper.capabilities.needs_init


def test_capabilities_pass_through_two_wrappers():
    outer = SoftKMeans(MetricMeanTeacher(Everything(Features(6))))
    inner = outer.learner.capabilities
    assert (inner.n_views, inner.trainer, inner.needs_init) == (2, "one", "such a run")
    assert outer.capabilities == inner


def test_layers_are_told_from_the_outside_in():
    learner = Prototypical(Features(6))
    assert unwrapped(learner) == [learner]
    inner = MetricMeanTeacher(learner)
    outer = Doubled(inner)
    assert unwrapped(outer) == [outer, inner, learner]


def test_only_learners_of_embeddings_that_leave_the_unlabeled_items_are_wrapped():
    learner = Prototypical(nn.Linear(6, 3))
    assert check_metric_learner(learner, "doubled") is learner
    taught = MetricMeanTeacher(learner)
    assert check_metric_learner(taught, "doubled") is taught
    with pytest.raises(ValueError, match="semi=doubled works on embeddings, but MAML has none"):
        check_metric_learner(MAML(Features(6), n_way=4), "doubled")
    for inner in (SoftKMeans(learner), LabelPropagation(learner)):
        with pytest.raises(ValueError, match=f"semi=doubled cannot go around {type(inner).__name__}: unlabeled items"):
            check_metric_learner(inner, "doubled")
