import re

import pytest

from episodic.config.compose import ConfigError, compose_config
from episodic.config.overrides import check_overrides, composed, in_full, refuse_unread


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lerner=matching"], "unknown option 'lerner'. Did you mean 'learner'[?]\nOptions: .*backbone.*task"),
        (["task=minimagenet"], "unknown task=minimagenet. Did you mean 'miniimagenet_5w.s'[?]\nValid: .*omniglot_5w1s"),
        (["trainer.step=3"], "unknown option 'trainer.step'. Did you mean 'steps'[?]\nOptions: .*validate_every"),
        (["task.n_wai=3"], "unknown option 'task.n_wai'. Did you mean 'n_way'[?]"),
        (["learner=matching", "learner.temperature=2"], "unknown option 'learner.temperature'.*\nOptions: .*scale"),
        (["run.dir=here"], "unknown option 'run.dir': 'run' is a single value, written as run=value"),
        (["experiment=nothing"], "unknown experiment=nothing.\nValid: .*matching_omniglot"),
        (["justaword"], "cannot read 'justaword'; options are written as name=value"),
        (["seed=[1"], r"cannot read 'seed=\[1'"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_valid_names(overrides, message):
    with pytest.raises(ConfigError, match=f"(?s)^{message}") as caught:
        check_overrides("train", overrides)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1,2,3"],
        ["task.n_way=[5,10]"],
        ["+optimizer.betas=[0.8,0.9]"],
        ["learner=matching", "learner.scale=3"],
        ["task=omniglot_5w1s,glyphs_5w1s"],
    ],
)
def test_what_is_right_passes(overrides):
    check_overrides("train", overrides)
    assert compose_config("train", [o for o in overrides if "," not in o or "[" in o])


def test_choices_of_a_users_own_folder_are_known(tmp_path):
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "own.yaml").write_text("_target_: torch.nn.Identity\nsize: 1\n")
    search = f"hydra.searchpath=[file://{tmp_path}]"
    check_overrides("train", [search, "learner=own", "learner.size=2"])
    with pytest.raises(ConfigError, match=r"unknown learner=owm\. Did you mean 'own'"):
        check_overrides("train", [search, "learner=owm"])
    with pytest.raises(ConfigError, match=r"unknown option 'learner\.sise'"):
        check_overrides("train", [search, "learner=own", "learner.sise=2"])
    with pytest.raises(ConfigError, match="unknown learner=own"):
        check_overrides("train", ["learner=own"])


def test_a_group_inside_a_part_is_chosen_by_its_place():
    assert in_full("loss.circle.distance=snr") == "distance@loss.circle.distance=snr"
    for other in (
        "loss.circle.margin=0.2",
        "distance=snr",
        "loss.circle.distance=none",
        "task.dataset.path=snr",
        "loss=circle",
    ):
        assert in_full(other) == other
    saved = in_full("learner.distance=snr", "evaluate")  # the part of a run has no groups
    assert saved == "learner.distance={_target_:episodic.core.distances.snr.SNR}"
    cfg, choices = composed("train", ["loss=circle", "loss.circle.distance=snr"])
    assert cfg.loss.circle.distance._target_.endswith("snr.SNR")
    assert choices["task"] == "glyphs_5w1s"
    assert "hydra" not in cfg


def test_what_a_command_does_not_read_is_refused():
    unread = {"augment": "nothing is trained", "task.train": "it trains"}
    refuse_unread(["seed=1", "semi=soft_kmeans"], unread)
    for argument in ("augment=none", "+augment.flip=true", "task.train.n_way=3"):
        with pytest.raises(ConfigError, match=r"would have no effect here: (nothing is trained|it trains)"):
            refuse_unread(["seed=1", argument], unread)


def test_what_people_are_offered_has_no_plumbing():
    for key in ("learner.x", "task.x", "x"):
        with pytest.raises(ConfigError) as caught:
            check_overrides("train", [f"{key}=1"])
        assert not re.search(r"[ ,]_\w+", str(caught.value).splitlines()[1])
