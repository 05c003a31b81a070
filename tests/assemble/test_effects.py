from types import SimpleNamespace

import pytest

from episodic.assemble.effects import check_wrappers_answer, idle_in_task, parts_of, refuse_idle
from episodic.assemble.learner import build_parts
from episodic.config.compose import ConfigError
from episodic.core.backbones.head import LinearHead
from episodic.learners.prototypical import Prototypical

SMOOTH = SimpleNamespace(without_effect={"margin": "smooth triplets have none"})


@pytest.mark.parametrize("override", ["loss.triplet.margin=0.3", "+loss.triplet.margin=0.3", "task.train.n_way=2"])
def test_what_is_given_by_hand_and_not_read_is_refused(override):
    with pytest.raises(ConfigError, match=r"would have no effect here: (smooth triplets have none|not read)"):
        refuse_idle(["seed=1", override], {"loss.triplet": SMOOTH}, {"task.train": "not read"})


def test_everything_else_passes():
    given = ["loss.triplet.rho=0.3", "loss.margin.margin=0.3", "task.training=1"]
    assert refuse_idle(given, {"loss.triplet": SMOOTH}, {"task.train": "x"}) is None
    assert refuse_idle(["seed=1"], {"seed": object()}) is None


def test_the_parts_lie_where_their_settings_are(config):
    cfg = config("semi=[soft_kmeans,mean_teacher]", "task.n_unlabeled=1", "task.train.n_unlabeled=1", "head=linear")
    parts = parts_of(cfg, build_parts(cfg).learner)
    assert {key: type(part).__name__ for key, part in parts.items()} == {
        "semi.soft_kmeans": "SoftKMeans",
        "semi.mean_teacher": "MetricMeanTeacher",
        "learner": "Prototypical",
        "head": "LinearHead",
        "backbone": "Conv4",
    }
    assert isinstance(parts["head"], LinearHead)
    assert isinstance(parts["learner"], Prototypical)


def test_settings_of_a_task_that_count_only_with_another_one(config):
    plain = idle_in_task(config().task)
    assert set(plain) == {
        *("task.labeled_seed", "task.folds", "task.base_query", "task.held_out"),
        *("task.n_distractors", "task.train.n_distractors"),
    }
    used = config("task.labeled_fraction=0.5", "task.fold=0", "task.base_way=2", "task.n_unlabeled=1")
    assert idle_in_task(used.task) == {}


def test_a_wrapper_that_only_training_knows_is_refused_in_evaluation():
    taught = SimpleNamespace(changes={"trainer": "pseudo_labels"})
    with pytest.raises(ConfigError, match=r"semi=pseudo_labels would have no effect here: in evaluation"):
        check_wrappers_answer("semi=pseudo_labels", {"semi.pseudo_labels": taught})
    check_wrappers_answer("semi=[saved,soft_kmeans]", {"semi.pseudo_labels": taught, "semi.soft_kmeans": object()})
