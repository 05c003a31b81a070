"""Training from Python, in a run's folder: what is kept, what is refused, what a resumed run may change."""

import json

import pytest
import torch
from safetensors.torch import load_file

import episodic.train
from episodic.config.compose import ConfigError
from episodic.train.setup import build_procedure

BATCHES = ["trainer=dml", "trainer.classes_per_batch=3", "trainer.images_per_class=3", "loss=[contrastive,proxy_nca]"]


@pytest.fixture
def options(pictures, tmp_path, monkeypatch):
    """Options of a tiny training in a folder of its own."""
    monkeypatch.setenv("EPISODIC_CACHE", str(pictures.with_name("cache")))
    monkeypatch.chdir(tmp_path)
    task = [
        "task=folder_5w1s",
        f"task.dataset.path={pictures}",
        "task.channels=1",
        "task.image_size=16",
        "task.n_way=3",
    ]
    return [*task, "task.n_query=2", "backbone.widths=[4,4]", "augment=none", "device=cpu", "precision=fp32", "episodes=10",
            "trainer.validation_episodes=5", "trainer.validate_every=2", "trainer.save_every=2"]  # fmt: skip


def test_training_from_python_returns_what_the_record_says(options, tmp_path, capsys):
    metrics = episodic.train.train(*options, "trainer.steps=4", "run=r")
    written = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics == {key: value for key, value in written.items() if key != "versions"}
    assert metrics["steps"] == 4
    assert metrics["train/episodes_per_second"] > 0
    assert "folder_5w1s: prototypical on conv4" in capsys.readouterr().out


def test_losses_are_kept_beside_the_learner_and_counted_among_the_parameters(options, tmp_path, capsys):
    metrics = episodic.train.train(*options, *BATCHES, "trainer.steps=2", "run=r")
    said = capsys.readouterr().out
    last = tmp_path / "r" / "last"
    learner, kept = load_file(last / "model.safetensors"), load_file(last / "trainer.safetensors")
    assert "objective.losses.proxy_nca.proxies" in kept
    assert not any("proxies" in name for name in learner)
    total = sum(v.numel() for n, v in learner.items() if not n.endswith(("mean", "var", "tracked")))
    assert f"({total + kept['objective.losses.proxy_nca.proxies'].numel():,} parameters)" in said
    assert metrics["test/recall@1"] >= 0
    assert metrics["train/batches_per_second"] > 0


def test_a_resumed_run_may_be_made_longer_only_where_no_step_depends_on_it(options):
    episodic.train.train(*options, "trainer.steps=2", "run=plain")
    longer = episodic.train.train(*options, "trainer.steps=4", "run=plain", "resume=true")
    assert longer["steps"] == 4
    episodic.train.train(*options, "trainer.steps=2", "schedule=cosine", "run=cosine")
    with pytest.raises(ConfigError, match=r"cannot be resumed: trainer\.steps was 2, now 4"):
        episodic.train.train(*options, "trainer.steps=4", "schedule=cosine", "run=cosine", "resume=true")


def test_a_resumed_run_ends_with_the_same_weights(options, tmp_path):
    for name, steps in (("whole", [4]), ("parts", [2, 4])):
        for count in steps:
            resume = [] if count == steps[0] else ["resume=true"]
            episodic.train.train(*options, *BATCHES, f"trainer.steps={count}", f"run={name}", *resume)
    for file in ("model", "trainer", "optimizer"):
        a, b = (load_file(tmp_path / name / "last" / f"{file}.safetensors") for name in ("whole", "parts"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), file


def test_nothing_is_begun_where_the_settings_are_refused(options, tmp_path):
    for bad in (["memory=xbm"], ["task.folds=3"], ["task.n_way=9"]):
        with pytest.raises(ValueError, match=r"memory=|task\.folds would have no effect|needs 9 classes"):
            episodic.train.train(*options, *bad, "run=r")
    assert not (tmp_path / "r").exists()


def test_a_procedure_is_the_one_of_the_configuration(config):
    from episodic.assemble.learner import build_parts

    cfg = config("trainer=dml", "trainer.classes_per_batch=3", "loss=circle")
    assert build_procedure(cfg, build_parts(cfg)).name == "dml"
