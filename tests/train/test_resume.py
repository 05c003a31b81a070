"""`resume=true` takes the options of the run; what is given beside it is checked."""

import os
from pathlib import Path

import pytest

from episodic.config.compose import ConfigError, compose_config
from episodic.config.overrides import composed
from episodic.run.run import Run
from episodic.train.resume import newest_folder, with_saved_options

OPTIONS = ["learner=matching", "loss=[cross_entropy,circle]", "distance@loss.circle.distance=snr", "trainer.steps=7"]


@pytest.fixture
def started(tmp_path, monkeypatch):
    """`started(name, options)` writes what a training with these options writes when it begins. Returns `run=<dir>`."""
    monkeypatch.chdir(tmp_path)

    def start(name, options=OPTIONS, settings=OPTIONS):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        Run(folder).write_config(compose_config("train", list(settings)), options)
        return f"run={folder}"

    return start


def test_the_run_alone_is_enough(started):
    run = started("a b, c", [*OPTIONS, "init_from='runs/x y'", "resume=false", "run='runs/old'"])
    complete = with_saved_options(["resume=true", run])
    assert complete == [*OPTIONS, "init_from=runs/x y", "resume=true", run]
    cfg, choices = composed("train", complete)
    saved = Run(Path(cfg.run)).config()
    assert {key for key in cfg if cfg[key] != saved[key]} == {"run", "resume", "init_from"}
    assert choices["learner"] == "matching"


def test_a_training_that_is_not_resumed_is_left_alone(started):
    run = started("a")
    for arguments in (["trainer.steps=9", run], ["resume=false", run], ["resume=no", run], ["--cfg", "job"]):
        assert with_saved_options(arguments) == arguments


def test_what_is_given_again_takes_the_place_of_the_old(started):
    run = started("a")
    again = ["resume=True", run, "trainer.steps=9", "loss.circle.distance=snr", "loss=[cross_entropy,circle]"]
    assert with_saved_options(again) == ["learner=matching", *again]


def test_other_choices_are_told_one_by_one(started):
    run = started("a")
    given = ["learner=prototypical", "semi=soft_kmeans", "loss=circle", "loss.circle.distance=cosine"]
    given += ["task=glyphs_5w1s"]  # that of the run
    with pytest.raises(ConfigError) as refused:
        with_saved_options(["resume=true", run, *given])
    assert str(refused.value) == (
        "runs/a was started with other settings, so it cannot be resumed: learner was matching, now prototypical, "
        "semi was supervised, now soft_kmeans, loss was cross_entropy+circle, now circle, "
        "distance@loss.circle.distance was snr, now cosine"
    )


def test_a_choice_that_was_not_given_before_is_known_all_the_same(started):
    run = started("a", ["trainer.steps=7"], ["trainer.steps=7"])
    assert with_saved_options(["resume=true", run, "learner=prototypical"])[-1] == "learner=prototypical"
    with pytest.raises(ConfigError, match="trainer was episodes, now dml"):
        with_saved_options(["resume=true", run, "trainer=dml"])


def test_no_folder_is_trusted_by_what_it_says(started):
    untrusted = ["allow_any_target=true", "hydra.searchpath=[pkg://evil]", "++hydra.run.dir=x", "+allow_any_target=true",
                 "--config-dir=x", "seed=1"]  # fmt: skip
    run = started("a", untrusted, [])
    assert with_saved_options(["resume=true", run]) == ["seed=1", "resume=true", run]
    assert with_saved_options(["resume=true", run, "allow_any_target=true"])[-1] == "allow_any_target=true"


def test_without_a_folder_it_is_the_newest_run(started):
    with pytest.raises(ConfigError, match=r"there is no run in .*runs to go on with"):
        with_saved_options(["resume=true"])
    for place, name in enumerate(["c", "deeper/b", "a"]):
        started(name, [f"seed={place}"], [])
        os.utime(f"runs/{name}/config.yaml", (1000 + place, 1000 + place))
    assert with_saved_options(["resume=true", "run=null"]) == ["seed=2", "resume=true", "run=runs/a"]
    os.utime("runs/deeper/b/config.yaml", (2000, 2000))
    assert newest_folder(Path("runs"), ["config.yaml"]) == Path("runs/deeper/b")


@pytest.mark.parametrize("content", ["", "seed: 1\n", "options: 3\nseed: 1\n", "options: [seed=1, 3]\n"])
def test_a_configuration_without_options_is_told(started, content):
    run = started("a")
    Path("runs/a/config.yaml").write_text(content)
    with pytest.raises(ConfigError, match="runs/a"):
        with_saved_options(["resume=true", run])


def test_a_folder_without_a_run_is_told(started):
    with pytest.raises(ConfigError, match="none holds no run to go on with"):
        with_saved_options(["resume=true", "run=none"])
