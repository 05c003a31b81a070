"""A command line names one model, and every setting of a task is either read or refused."""

import pytest
from omegaconf import OmegaConf

from episodic.assemble.model_choice import READ_OF_TASK, UNREAD, UNREAD_OF_TASK, check_seed, with_parts
from episodic.config.compose import ConfigError, compose_config, conf_dir


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which model? run=<dir>"),
        (["support=shots"], "which model? run=<dir>"),
        (["run=a", "model=b"], "give one of run=, backbone= and model=, not run and model"),
        (["backbone.weights=a", "model=b"], "not backbone and model"),
        (
            ["model=a", "learner=matching", "task.channels=1"],
            "model=<file> has a learner of its own: leave learner out",
        ),
    ],
)
def test_one_model_is_named(arguments, message):
    with pytest.raises(ConfigError) as error:
        with_parts(arguments)
    assert message in str(error.value)


def test_flags_need_no_model():
    assert with_parts(["--help"]) == ["--help"]


def test_a_backbone_compares_by_prototypes_at_the_size_of_pretrained_networks():
    cfg = compose_config("predict", with_parts(["backbone=resnet50"]))
    assert (cfg.task.image_size, cfg.task.channels) == (224, 3)
    assert cfg.learner._target_.endswith("Prototypical")
    assert list(cfg.semi) == ["supervised"]


def test_every_setting_of_a_task_is_read_or_refused():
    settings = OmegaConf.load(conf_dir() / "task" / "_base.yaml").keys()
    assert sorted(settings) == sorted([*READ_OF_TASK, *UNREAD_OF_TASK])
    assert {f"task.{name}" for name in UNREAD_OF_TASK} < UNREAD.keys()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["run=a"], "all weights come from run=a"),
        (["model=a"], "all weights come from model=a"),
        (["backbone=resnet50"], "the backbone's weights are pretrained"),
        (["backbone=resnet50", "backbone.weights=null"], None),
        (["backbone=conv4"], None),
    ],
)
def test_a_seed_is_refused_where_no_weights_are_drawn(options, reason):
    with_parts(["backbone=conv4"])  # so that there are choices `saved`
    check_seed(compose_config("predict", options))
    cfg = compose_config("predict", [*options, "seed=1"])
    if reason is None:
        return check_seed(cfg)
    with pytest.raises(ConfigError, match=f"seed would have no effect here: {reason}"):
        check_seed(cfg)
