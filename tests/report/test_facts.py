"""What a report says of a run in words: what its curves are of, and what its reader must know of the classes."""

import pytest
from omegaconf import OmegaConf

from episodic.config.compose import compose_config
from episodic.report.facts import caution, protocols
from tests.conftest import random_store


@pytest.mark.parametrize(
    ("arguments", "training"),
    [
        (["task.train.n_way=[5,20]"], "5-20-way 1-shot"),
        (["trainer=dml", "loss=multi_similarity"], "nearest image in the batch"),
        (["semi=pseudo_labels", "learner=base_classifier"], "labeled images, all classes"),
    ],
)
def test_only_accuracies_of_episodes_have_ways(arguments, training):
    saved = compose_config("train", ["task=miniimagenet_5w1s", "task.n_way=4", *arguments])
    assert protocols(saved) == {"train/accuracy": training, "val/accuracy": "4-way 1-shot"}


def test_classes_that_stand_in_for_others_are_said_to(tmp_path):
    saved = compose_config("train", ["task=miniimagenet_5w1s"])
    OmegaConf.save(saved, tmp_path / "config.yaml")
    (tmp_path / "best").mkdir()
    cfg = OmegaConf.create({"run": str(tmp_path), "split": "test", "task": {"dataset": {"_target_": "other"}}})
    said = "There are no test classes on disk; the validation classes stand in for them."
    store = random_store(split="val")
    assert caution(cfg, store) == said  # training had nothing of another data set
    cfg.task = saved.task
    assert caution(cfg, store).startswith(f"{said} Validation chose the best checkpoint")
