import errno
import json
import os
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from episodic.config.compose import ConfigError, compose_config
from episodic.run.run import Run
from tests.train.training import episodic_of, resume, states_equal


def config(**changes):
    base = compose_config("train", ["episodes=10", "device=cpu", "trainer.steps=5", "optimizer.lr=0.1"])
    OmegaConf.set_struct(base, False)
    return OmegaConf.merge(base, changes)


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


def begun(folder, checkpoint="last"):
    """A run in `folder` with one checkpoint."""
    with Run.open(config(run=str(folder)), "name") as run:
        run.write_config(config(run=str(folder)), [])
        training = episodic_of()
        run.save(checkpoint, training.setup.learner, training, {"step": 1})
    return run


def opened(cfg, free=()):
    with Run.open(cfg, "task-learner", free) as run:
        return run


def test_settings_that_a_resumed_run_may_change(tmp_path):
    run = begun(tmp_path / "r")
    again = {"run": str(run.folder), "resume": True}
    assert opened(config(**again, episodes=20)) == run
    with pytest.raises(ConfigError, match=r"cannot be resumed: trainer\.steps was 5, now 9"):
        opened(config(**again, trainer={"steps": 9}))
    assert opened(config(**again, trainer={"steps": 9}), free=["trainer.steps"]) == run
    with pytest.raises(ConfigError, match=r"optimizer\.lr was 0\.1, now 0\.2, seed was 0, now 7$"):
        opened(config(**again, optimizer={"lr": 0.2}, seed=7), free=["trainer.steps"])
    assert run.config().optimizer.lr == 0.1


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_run_is_not_begun_where_one_is(tmp_path, checkpoint):
    run = begun(tmp_path / "r", checkpoint)
    with pytest.raises(ConfigError, match="holds a run already: resume=true goes on with it"):
        opened(config(run=str(run.folder)))
    (run.folder / "config.yaml").unlink()
    for goes_on in (False, True):
        with pytest.raises(ConfigError, match=r"has checkpoints but no config\.yaml: put that file back"):
            opened(config(run=str(run.folder), resume=goes_on))
    assert run.restore(checkpoint, episodic_of().setup.learner) == {"step": 1}


def test_there_is_nothing_to_resume_where_no_run_is(tmp_path):
    with pytest.raises(ConfigError, match="holds no run to go on with: leave resume=true out"):
        opened(config(run=str(tmp_path / "none"), resume=True))
    assert not (tmp_path / "none").exists()


def test_one_writer_and_any_readers(tmp_path):
    cfg = config(run=str(tmp_path / "r"))
    with Run.open(cfg, "name") as run:
        run.write_config(cfg, [])
        with pytest.raises(ConfigError, match=f"r is in use: process {os.getpid()} on .*, which since .* writes there"):
            opened(cfg)
        assert Run(run.folder).config().seed == 0
        Run(run.folder).write_evaluation({"accuracy": 0.5}, [])
    assert opened(cfg) == run


@pytest.mark.parametrize("name", ["last", "best", "last-previous"])
def test_a_checkpoint_that_is_a_link_is_refused_and_kept(tmp_path, name):
    run = begun(tmp_path / "r")
    shutil.copytree(run.folder / "last", tmp_path / "elsewhere")
    shutil.rmtree(run.folder / "last")
    shutil.copytree(tmp_path / "elsewhere", run.folder / "last")
    shutil.rmtree(run.folder / name, ignore_errors=True)
    (run.folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"{name} is a link, and training replaces it: put the folder itself"):
        opened(config(run=str(run.folder), resume=True))
    assert (tmp_path / "elsewhere" / "state.json").is_file()


def test_a_link_to_a_run_is_the_run(tmp_path):
    run = begun(tmp_path / "r")
    (tmp_path / "link").symlink_to(run.folder)
    with Run.open(config(run=str(tmp_path / "link"), resume=True), "name") as same:
        training = episodic_of()
        same.save("last", training.setup.learner, training, {"step": 2})
        with pytest.raises(ConfigError, match="is in use"):
            opened(config(run=str(run.folder), resume=True))
    assert run.restore("last", training.setup.learner) == {"step": 2}


@pytest.mark.parametrize("another", [False, True])
def test_a_folder_deleted_beneath_is_not_made_again(tmp_path, another):
    cfg, training = config(run=str(tmp_path / "r")), episodic_of()
    with Run.open(cfg, "name") as run:
        shutil.rmtree(run.folder)
        if another:
            begun(run.folder)
        with pytest.raises(FileNotFoundError, match="the folder was deleted or moved") as error:
            run.save("best", training.setup.learner, training, {"step": 9})
        assert error.value.errno == errno.ENOENT
        with pytest.raises(FileNotFoundError, match="the folder was deleted or moved"):
            run.write_metrics({"accuracy": 0.5})
    assert run.folder.exists() == another
    assert not run.has("best")


def test_a_death_at_any_rename_or_flush_leaves_a_checkpoint(tmp_path):
    """A child saves the second and third checkpoint and dies before its `n`th such call, for every `n`."""
    training, found = episodic_of(), []
    while True:
        run = begun(tmp_path / str(len(found)))
        process = os.fork()
        if process == 0:
            calls, most = [0], len(found)

            def dying(function, calls=calls, most=most):
                def call(*arguments):
                    calls[0] += 1
                    if calls[0] > most:
                        os._exit(9)
                    return function(*arguments)

                return call

            for name in ("rename", "replace", "fsync"):
                setattr(os, name, dying(getattr(os, name)))
            for step in (2, 3):
                run.save("last", training.setup.learner, training, {"step": step})
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0:
            break
        with Run.open(config(run=str(run.folder), resume=True), "name") as again:
            step = again.restore("last", training.setup.learner, training)["step"]
            again.save("last", training.setup.learner, training, {"step": step + 1})
            assert again.restore("last", training.setup.learner)["step"] == step + 1
        found.append(step)
    assert len(found) > 20
    assert found == sorted(found), "what was saved before is never lost"
    assert set(found) == {1, 2, 3}


def test_runs_without_a_name_lie_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "2026-01-01_00-00-00")  # all begin in one second
    with Run.open(config(), "task-learner") as first, Run.open(config(), "task-learner") as second:
        names = [run.folder.name for run in (first, second)]
    assert names == ["2026-01-01_00-00-00", "2026-01-01_00-00-00+"]
    assert {p.parent.name for p in (first.folder, second.folder)} == {"task-learner"}


def test_the_configuration_has_the_options_beside_the_settings(tmp_path):
    options = ["run='a b'", "loss=[circle,contrastive]", "task.dataset.path=${x}/b: c"]
    Run(tmp_path).write_config(config(), options)
    assert Run(tmp_path).options() == options
    assert Run(tmp_path).config() == config()


@pytest.mark.parametrize("text", ["options: 3", "options: [1]", "options: {a: b}", ""])
def test_options_that_are_no_list_of_texts_are_refused(tmp_path, text):
    Run(tmp_path).write_config(config(), [])
    written = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(written.replace("options: []", text))
    with pytest.raises(ConfigError, match="does not say how the run was started"):
        Run(tmp_path).options()
    assert Run(tmp_path).config() == config()


def test_settings_that_could_not_be_read_back_are_not_written(tmp_path):
    cfg = config(run="${oc.env:HOME}")
    with pytest.raises(ConfigError, match=r"run is '\$\{oc\.env:HOME\}', which is no reference"):
        Run(tmp_path).write_config(cfg, [])
    assert not (tmp_path / "config.yaml").exists()


def test_metrics_name_the_versions(tmp_path):
    Run(tmp_path).write_metrics({"accuracy": 0.5})
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["accuracy"] == 0.5
    assert set(written["versions"]) == {"torch", "torchvision", "numpy", "episodic", "python"}


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, None])
def test_metrics_that_cannot_be_read_are_none(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    assert Run(tmp_path).metrics() == {}
    Run(tmp_path).write_metrics({"accuracy": 0.5})
    assert Run(tmp_path).metrics()["accuracy"] == 0.5


def test_a_folder_without_a_configuration_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run: it has no config\.yaml"):
        Run(tmp_path).config()


def test_each_evaluation_is_a_file_of_its_own_and_none_takes_the_place_of_another(tmp_path):
    run = Run(tmp_path)
    written = [run.write_evaluation({"test/accuracy": i / 10}, ["run=x", "task=glyphs_5w1s"]) for i in range(3)]
    assert len(set(written)) == 3
    assert sorted(run.evaluations()) == sorted(written)
    records = [json.loads(path.read_text()) for path in written]
    assert [record["test/accuracy"] for record in records] == [0.0, 0.1, 0.2]
    assert records[0]["options"] == ["run=x", "task=glyphs_5w1s"]
    assert all("task=glyphs_5w1s" in path.name and "run=" not in path.name for path in written)


def test_evaluations_are_not_written_through_a_link(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluations").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="evaluations is a link"):
        Run(tmp_path / "run").write_evaluation({}, [])
    assert not list((tmp_path / "other").iterdir())
