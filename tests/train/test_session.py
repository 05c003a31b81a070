"""Training from Python, in a run's folder: what is kept, what is refused, what a resumed run may change."""

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import episodic.train
from episodic.config.compose import ConfigError
from episodic.run import checkpoint
from episodic.run.lock import WriterLock
from episodic.train import session
from episodic.train.setup import build_procedure

VALIDATE = session.Session.validate
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


@pytest.mark.parametrize(
    "option",
    ["seed=1.5", "resume=no", "task.n_shot=few", "trainer.steps=1.5", "optimizer.lr=abc", "backbone.widths=64"],
)
def test_from_python_too_a_setting_of_another_type_is_refused_by_its_name(options, tmp_path, option):
    with pytest.raises(ConfigError, match=f"^{option.partition('=')[0]} must be"):
        episodic.train.train(*options, option, "run=r")
    assert not (tmp_path / "r").exists()


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
    longer = episodic.train.train("trainer.steps=4", "run=plain", "resume=true")
    assert longer["steps"] == 4
    episodic.train.train(*options, "trainer.steps=2", "schedule=cosine", "run=cosine")
    with pytest.raises(ConfigError, match=r"cannot be resumed: trainer\.steps was 2, now 4"):
        episodic.train.train("trainer.steps=4", "run=cosine", "resume=true")


def test_fewer_steps_than_the_run_has_change_nothing(options, tmp_path):
    episodic.train.train(*options, "trainer.steps=4", "run=r")
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=r"r has 4 steps already: give trainer\.steps=4 or more, or take another run"):
        episodic.train.train("trainer.steps=3", "run=r", "resume=true")
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()} == before


def test_a_run_that_has_ended_is_scored_again(options, capsys):
    first = episodic.train.train(*options, "trainer.steps=2", "run=r")
    again = episodic.train.train("resume=true", "run=r", "episodes=12")
    assert "; all 2 steps are done, scored again" in capsys.readouterr().out
    assert again["test/episodes"] == 12
    assert again["best_step"] == first["best_step"]


def test_one_training_at_a_time_has_the_folder_and_readers_need_not_wait(options, tmp_path):
    episodic.train.train(*options, "trainer.steps=2", "run=r")
    with WriterLock(tmp_path / "r"):
        with pytest.raises(ConfigError, match=f"r is in use: process {os.getpid()} on"):
            episodic.train.train("trainer.steps=4", "run=r", "resume=true")
        assert not episodic.load("r", device="cpu").training


def test_a_resumed_run_ends_with_the_same_weights(options, tmp_path):
    for name, steps in (("whole", [4]), ("parts", [2, 4])):
        for count in steps:
            how = [*options, *BATCHES] if count == steps[0] else ["resume=true"]
            episodic.train.train(*how, f"trainer.steps={count}", f"run={name}")
    for file in ("model", "trainer", "optimizer"):
        a, b = (load_file(tmp_path / name / "last" / f"{file}.safetensors") for name in ("whole", "parts"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), file


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "Make room, then resume with"),
        (errno.EDQUOT, "Make room, since your quota is used up, then resume with"),
        (errno.EACCES, "Give yourself the permission, then resume with"),
        (errno.EROFS, "Let the file system be written, then resume with"),
        (errno.EIO, "Mend that, then resume with"),
    ],
)
def test_what_cannot_be_written_is_told_with_what_helps(options, tmp_path, monkeypatch, number, said):
    write, count = checkpoint.write_atomically, []

    def fail(path, content):
        count.append(path)
        if len(count) > 10:  # those of `best` and `last` at step 2
            raise OSError(number, os.strerror(number), str(path))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", fail)
    monkeypatch.setattr(session.Session, "validate", lambda self, step: None if step > 2 else VALIDATE(self, step))
    with pytest.raises(OSError, match="Training stopped in step 4; step 2 is kept in r") as stopped:
        episodic.train.train(*options, "trainer.steps=6", "run=r")
    assert str(stopped.value).startswith(f"[Errno {number}] {os.strerror(number)}")
    assert f"{said}: python -m episodic.train resume=true run=r" in str(stopped.value)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert json.loads((tmp_path / "r" / "last" / "state.json").read_text())["step"] == 2


def test_a_folder_that_was_deleted_while_it_trained_is_told(options, tmp_path, monkeypatch):
    monkeypatch.setattr(session.Session, "log", lambda self, step, values: shutil.rmtree(self.run.folder))
    said = r"was deleted or moved: 'r'\. Training stopped in step 2; no checkpoint is kept$"
    with pytest.raises(OSError, match=said):
        episodic.train.train(*options, "trainer.steps=6", "run=r")
    assert not (tmp_path / "r").exists()


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize("moment", ["validate", "log", "save"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_saves_the_step_and_says_how_to_go_on(options, tmp_path, monkeypatch, capsys, moment, number, code):
    work = getattr(session.Session, moment)

    def struck(self, step, *values):
        signal.raise_signal(number)
        work(self, step, *values)

    monkeypatch.setattr(session.Session, moment, struck)
    with pytest.raises(SystemExit) as ended:
        episodic.train.train(*options, "trainer.steps=4", "run=r")
    assert ended.value.code == code
    said = "Stopped at step 2, saved in r; resume with: python -m episodic.train resume=true run=r\n"
    assert said in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "last" / "state.json").read_text())["step"] == 2
    monkeypatch.setattr(session.Session, moment, work)
    assert episodic.train.train("resume=true", "run=r")["steps"] == 4


def test_a_second_signal_ends_it_at_once_and_names_what_is_kept(options, tmp_path, monkeypatch, capsys):
    save = session.Session.save

    def struck(self, step):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        save(self, step)

    monkeypatch.setattr(session.Session, "save", struck)
    with pytest.raises(SystemExit) as ended:
        episodic.train.train(*options, "trainer.steps=6", "run=r")
    assert ended.value.code == 143
    assert "Ended at once, within step 4; step 2 is kept in r; resume with: python -m" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "last" / "state.json").read_text())["step"] == 2


def test_a_signal_at_the_last_step_leaves_the_scores_for_later(options, monkeypatch, capsys):
    validate = session.Session.validate
    monkeypatch.setattr(
        session.Session, "validate", lambda self, step: (signal.raise_signal(signal.SIGTERM), validate(self, step))
    )
    with pytest.raises(SystemExit) as ended:
        episodic.train.train(*options, "trainer.steps=2", "run=r")
    assert ended.value.code == 143
    assert "Stopped at step 2, saved in r" in capsys.readouterr().out


def test_an_end_while_it_is_scored_says_that_only_the_scores_are_missing(options, tmp_path, monkeypatch, capsys):
    def struck(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(session.Results, "add", struck)
    with pytest.raises(KeyboardInterrupt):
        episodic.train.train(*options, "trainer.steps=2", "run=r")
    assert "Training has ended, but its scores are missing; resume with: python -m" in capsys.readouterr().out
    assert not (tmp_path / "r" / "metrics.json").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert episodic.train.train("resume=true", "run=r")["steps"] == 2


def test_a_terminal_that_was_closed_takes_no_lines_and_stops_nothing(monkeypatch):
    def closed(number):
        def write(text):
            raise OSError(number, os.strerror(number))

        return write

    monkeypatch.setattr(session.tqdm, "write", closed(errno.EIO))
    session.say("into the void")
    monkeypatch.setattr(session.tqdm, "write", closed(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        session.say("into a full file")


def test_nothing_is_begun_where_the_settings_are_refused(options, tmp_path):
    for bad in (["memory=xbm"], ["task.folds=3"], ["task.n_way=9"]):
        with pytest.raises(ValueError, match=r"memory=|task\.folds would have no effect|needs 9 classes"):
            episodic.train.train(*options, *bad, "run=r")
    assert not (tmp_path / "r").exists()


def test_a_procedure_is_the_one_of_the_configuration(config):
    from episodic.assemble.learner import build_parts

    cfg = config("trainer=dml", "trainer.classes_per_batch=3", "loss=circle")
    assert build_procedure(cfg, build_parts(cfg)).name == "dml"


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "4"},
        {"step": True},
        {"step": -1},
        {"seconds": None},
        {"best": []},
        {"best": {}},
        {"best": {"step": 1, "accuracy": float("nan")}},
    ],
)
def test_a_state_that_was_never_written_is_told(changes, tmp_path):
    """A stranger's checkpoint can have it, with right checksums."""
    whole = {"step": 4, "seconds": 1.5, "best": {"step": 2, "accuracy": 0.5}}
    assert session._checked(whole, tmp_path) == whole
    with pytest.raises(checkpoint.CheckpointError, match="is damaged: its state is"):
        session._checked(whole | changes, tmp_path)
