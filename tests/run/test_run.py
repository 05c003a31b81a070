import json

import pytest
import torch
from omegaconf import OmegaConf

from episodic.config.compose import ConfigError
from episodic.run.run import Run
from tests.train.training import episodic_of, resume, states_equal


def config(**changes):
    cfg = {"run": None, "resume": False, "seed": 0, "episodes": 10, "device": "cpu", "data_dir": None}
    return OmegaConf.create(cfg | {"trainer": {"steps": 5}, "optimizer": {"lr": 0.1}} | changes)


def test_a_checkpoint_holds_the_learner_and_the_procedure_apart(tmp_path):
    run, training = Run(tmp_path), episodic_of()
    training.state.register_buffer("bank", torch.arange(3.0))
    training.training_step()
    run.save("last", training.setup.learner, training, {"step": 1})
    other = episodic_of()
    other.state.register_buffer("bank", torch.zeros(3))
    assert run.restore("last", other.setup.learner, other) == {"step": 1}
    assert states_equal(training, resume(other, training, 1))
    assert not any("bank" in name for name in run.weights())


def test_settings_that_a_resumed_run_may_change(tmp_path):
    run = Run.open(config(run=str(tmp_path / "r")), "name")
    training = episodic_of()
    run.save("last", training.setup.learner, training, {"step": 1})
    again = {"run": str(run.folder), "resume": True}
    assert Run.open(config(**again, episodes=20), "name") == run
    with pytest.raises(ConfigError, match=r"cannot be resumed: trainer\.steps was 5, now 9"):
        Run.open(config(**again, trainer={"steps": 9}), "name")
    assert Run.open(config(**again, trainer={"steps": 9}), "name", free=["trainer.steps"]) == run
    with pytest.raises(ConfigError, match=r"optimizer\.lr was 0\.1, now 0\.2"):
        Run.open(config(**again, optimizer={"lr": 0.2}), "name", free=["trainer.steps"])
    with pytest.raises(ConfigError, match="holds a run already"):
        Run.open(config(run=str(run.folder)), "name")


def test_runs_without_a_name_lie_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = Run.open(config(), "task-learner"), Run.open(config(), "task-learner")
    assert first.folder != second.folder
    assert {p.parent.name for p in (first.folder, second.folder)} == {"task-learner"}
    newest = max(first.folder, second.folder)
    assert Run.open(config(resume=True), "task-learner").folder == newest


def test_metrics_name_the_versions(tmp_path):
    Run(tmp_path).write_metrics({"accuracy": 0.5})
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["accuracy"] == 0.5
    assert set(written["versions"]) == {"torch", "torchvision", "numpy", "episodic", "python"}


def test_a_folder_without_a_configuration_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run: it has no config\.yaml"):
        Run(tmp_path).config()
