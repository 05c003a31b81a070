"""A first stage: the same as two trainings by hand, resumed where it was stopped, and refused where it has no effect."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import episodic.train
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.config.overrides import composed
from episodic.run.run import Run
from episodic.train import session
from episodic.train.pretraining import Pretraining, no_pretraining
from tests.train.test_session import options as options  # a fixture

FIRST = [
    "trainer=dml",
    "trainer.classes_per_batch=4",
    "trainer.images_per_class=2",
    "loss=classifier",
    "optimizer=sgd",
    "schedule=cosine",
]
STAGE = [
    "pretrain=classifier",
    f"pretrain.options={json.dumps([*FIRST, 'trainer.save_every=1'])}",
    "pretrain.steps=4",
    "trainer.steps=3",
    "seed=5",
]


def weights(folder):
    return load_file(folder / "last" / "model.safetensors")


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_both_stages_are_two_trainings_by_hand(options, tmp_path, capsys):
    episodic.train.train(*options, *FIRST, "trainer.steps=4", "seed=5", "run=first")
    episodic.train.train(*options, "trainer.steps=3", "seed=5", "init_from=first", "run=second")
    capsys.readouterr()
    metrics = episodic.train.train(*options, *STAGE, "run=both")
    said = capsys.readouterr().out
    assert said.index("First, pretrain=classifier:") < said.index("Then, with its weights:")
    assert equal(weights(tmp_path / "both" / "pretrain"), weights(tmp_path / "first"))
    assert equal(weights(tmp_path / "both"), weights(tmp_path / "second"))
    assert metrics["pretrain/images"] == 4 * 8
    assert metrics["train/images"] == 3 * 9  # 3-way episodes of one example and two queries


def test_there_may_be_more_stages_before(options, tmp_path, monkeypatch):
    to_come = []
    fit = session.Session.fit
    monkeypatch.setattr(session.Session, "fit", lambda self: (to_come.append(self.pixels_to_come), fit(self)))
    inner = [
        "pretrain=classifier",
        f"pretrain.options={json.dumps(FIRST)}",
        "pretrain.steps=2",
        "pretrain.resolution=0.5",
        "pretrain.smallest_side=1",
    ]
    middle = f"pretrain.options={json.dumps([*inner, 'trainer=episodes', 'optimizer=sgd'])}"
    episodic.train.train(*options, "pretrain=classifier", middle, "pretrain.steps=3", "trainer.steps=2", "run=r")
    folder = tmp_path / "r"
    found = [Run(folder.joinpath(*["pretrain"] * n)).metrics() for n in range(3)]
    assert [metrics["steps"] for metrics in found] == [2, 3, 2]
    assert found[0]["pretrain/images"] == 3 * 9 + 2 * 8  # of all stages before
    assert [Run(folder.joinpath(*["pretrain"] * n)).config().task.image_size for n in range(3)] == [16, 16, 8]
    assert weights(folder).keys() == weights(folder / "pretrain" / "pretrain").keys()  # the same convolutions
    assert to_come == [(3 + 2) * 9 * 16**2, 2 * 9 * 16**2, 0]  # episodes of 9 images, at 16 pixels


@pytest.mark.parametrize(("smallest", "side"), [(1, 42), (32, 42), (50, 50), (90, 84)])
def test_the_resolution_does_not_go_below_the_smallest_side(smallest, side, tmp_path):
    cfg, choices = composed("train", ["task=miniimagenet_5w1s"])
    stage, _ = Pretraining(steps=1, resolution=0.5, smallest_side=smallest).config(cfg, choices, tmp_path)
    assert stage.task.image_size == side


def test_the_first_stage_of_a_task_is_the_same_for_every_learner_and_number_of_shots(tmp_path):
    def first(*options):
        cfg, choices = composed("train", [*options])
        pretraining = make(cfg.pretrain)
        stage = OmegaConf.to_container(pretraining.config(cfg, choices, tmp_path)[0], resolve=True)
        shape = stage["task"].pop("train")
        return {**stage, "task": {"train": shape, "image_size": stage["task"]["image_size"]}}

    expected = first("task=miniimagenet_5w1s")
    assert expected["backbone"]["output"] == "vector"
    assert (expected["task"]["train"]["n_way"], expected["task"]["train"]["n_shot"]) == (20, 1)
    assert first("task=miniimagenet_5w5s") == expected
    for learner in ("matching", "relation", "cross_attention"):
        assert first("task=miniimagenet_5w1s", f"learner={learner}") == expected


@pytest.mark.parametrize("stopped_in", ["pretrain", ""], ids=["first stage", "second stage"])
def test_a_run_that_was_stopped_goes_on_in_its_stage(options, tmp_path, monkeypatch, stopped_in):
    episodic.train.train(*options, *STAGE, "trainer.save_every=1", "run=whole")
    save = session.Session.save

    def stop(self, step):
        save(self, step)
        if step == 2 and self.run.folder.name == (stopped_in or "stopped"):
            raise KeyboardInterrupt

    monkeypatch.setattr(session.Session, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        episodic.train.train(*options, *STAGE, "trainer.save_every=1", "run=stopped")
    assert (tmp_path / "stopped" / "last").exists() == (stopped_in == "")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    episodic.train.train("resume=true", "run=stopped")
    assert equal(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("stages", [2, 3])
def test_how_to_go_on_is_said_of_the_whole_run(options, tmp_path, monkeypatch, capsys, stages):
    def stop(self, step):
        raise KeyboardInterrupt

    before = ["pretrain=classifier", f"pretrain.options={json.dumps(FIRST)}", "pretrain.steps=2", "trainer=episodes"]
    nested = [f"pretrain.options={json.dumps(before)}"]
    monkeypatch.setattr(session.Session, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        episodic.train.train(*options, *STAGE, *(nested if stages == 3 else []), "run=r")
    assert "resume=true run=r\n" in capsys.readouterr().out + "\n"


def test_what_would_have_no_effect_is_refused(options):
    attractor = ["learner=attention_attractor", "task.train.n_way=3", "task.train.n_query=2"]
    with pytest.raises(ConfigError, match="AttentionAttractor begins with a run of its own kind"):
        episodic.train.train(*options, *attractor, "pretrain=classifier", "run=s")
    with pytest.raises(
        ConfigError, match="pretrain= would have no effect here: weights begin with those of init_from="
    ):
        episodic.train.train(*options, "pretrain=classifier", "init_from=r", "run=s")
    with pytest.raises(
        ConfigError, match="pretrain would have no effect here: a first stage is for training by episodes"
    ):
        episodic.train.train(*options, *FIRST, "pretrain=classifier", "run=s")


@pytest.mark.parametrize(
    "option", ["run=elsewhere", "resume=true", "allow_any_target=true", "task=omniglot_5w1s", "seed=3", "hydra.x=1"]
)
def test_a_first_stage_shares_what_is_the_runs(option):
    with pytest.raises(ConfigError, match=f"{option} is that of the run"):
        Pretraining(steps=1, options=["trainer=dml", option])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"pretrain\.steps must be an integer, at least 1"),
        ({"steps": 1, "resolution": 1.5}, r"pretrain\.resolution must be a number, above 0 and at most 1"),
        ({"steps": 1, "smallest_side": 0}, r"pretrain\.smallest_side must be an integer, at least 1"),
        ({"steps": 1, "options": "trainer=dml"}, r"pretrain\.options must be a list of strings"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Pretraining(**settings)


def test_without_a_first_stage_there_is_none():
    assert no_pretraining() is None
