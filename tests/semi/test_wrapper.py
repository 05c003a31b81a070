import pytest
from torch import nn

from episodic.episodes.task import Task
from episodic.learners.attention_attractor import AttentionAttractor
from episodic.learners.learner import AbstractMetricLearner
from episodic.learners.maml import MAML
from episodic.learners.prediction import Prediction
from episodic.learners.prototypical import Prototypical
from episodic.learners.tpn import TPN
from episodic.semi.label_propagation import LabelPropagation
from episodic.semi.mean_teacher import MetricMeanTeacher
from episodic.semi.soft_kmeans import SoftKMeans
from episodic.semi.wrapper import AbstractWrapper, unwrapped, metric
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
    assert (inductive.transductive, transductive.transductive) == (False, True)
    assert (inductive.incremental, inductive.needs_init) == (False, "")
    learner = AttentionAttractor(Features(6), n_classes=3)
    wrapper = Doubled(learner)
    assert wrapper.backbone is learner.backbone
    assert wrapper.incremental
    assert wrapper.needs_init == learner.needs_init != ""


def test_layers_are_told_from_the_outside_in():
    learner = Prototypical(Features(6))
    assert unwrapped(learner) == [learner]
    inner = MetricMeanTeacher(learner)
    outer = Doubled(inner)
    assert unwrapped(outer) == [outer, inner, learner]


def test_only_learners_of_embeddings_that_leave_the_unlabeled_items_are_wrapped():
    learner = Prototypical(nn.Linear(6, 3))
    assert metric(learner, "doubled") is learner
    taught = MetricMeanTeacher(learner)
    assert metric(taught, "doubled") is taught
    with pytest.raises(ValueError, match="semi=doubled works on embeddings, but MAML has none"):
        metric(MAML(Features(6), n_way=4), "doubled")
    for inner in (SoftKMeans(learner), LabelPropagation(learner)):
        with pytest.raises(ValueError, match=f"semi=doubled cannot go around {type(inner).__name__}: unlabeled items"):
            metric(inner, "doubled")
