"""The report of a run from the command line: the numbers of `evaluate`, files that stand alone, and what goes wrong."""

import contextlib
import html
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from episodic.assemble.load import with_saved_parts
from episodic.config.command import command
from episodic.config.compose import ConfigError, compose_config
from episodic.evaluate.__main__ import main as evaluate
from episodic.report.__main__ import main as report
from episodic.report.__main__ import with_run, writing
from episodic.report.facts import caution, protocols
from episodic.run.run import Run
from episodic.train.__main__ import train
from tests.conftest import random_store
from tests.pages.test_page import Reader
from tests.test_train import SMALL, place  # noqa: F401  (a fixture)

SHAPE = ["task.n_way=4", "episodes=60", "seed=3"]
COMMANDS = {"train": (train, list), "evaluate": (evaluate, with_saved_parts), "report": (report, with_run)}


def run(place, name, *arguments, code=0):  # noqa: F811
    """What a command says; in this process, which has imported everything already."""
    data = [f"task.dataset.path={place / 'pictures'}", *SMALL] if name == "train" else []
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        contextlib.ExitStack() as stack,
    ):
        patch.chdir(place)
        patch.setenv("EPISODIC_CACHE", str(place / "cache"))
        patch.setattr("sys.argv", [name, *data, *arguments])
        stop = stack.enter_context(pytest.raises(SystemExit)) if code else None
        command(name, *COMMANDS[name])
    assert (stop.value.code if stop else 0) == code, said.getvalue()
    return said.getvalue()


@pytest.fixture(scope="module")
def runs(place):  # noqa: F811
    for seed, name in enumerate(("ours", "theirs")):
        run(place, "train", f"run={name}", "trainer.steps=10", f"seed={seed}")
    return place


def test_the_page_has_the_numbers_of_evaluate(runs):
    run(runs, "evaluate", "run=ours", "against=theirs", *SHAPE)
    expected = json.loads((runs / "ours" / "evaluation.json").read_text())
    output = run(runs, "report", "run=ours", "against=theirs", *SHAPE)
    folder = runs / "ours" / "report"
    assert str(folder.relative_to(runs) / "report.html") in output
    found = json.loads((folder / "report.json").read_text())
    names = {key for key in expected if key.startswith("test/")} - {
        "test/seconds",
        "test/difference",
        "test/difference_ci95",
    }
    assert {key: found[key] for key in names} == {key: expected[key] for key in names}
    page = (folder / "report.html").read_text()
    for value, half in (("accuracy", "ci95"), ("difference", "difference_ci95")):
        assert f"{100 * expected[f'test/{value}']:.2f} &#177; {100 * expected[f'test/{half}']:.2f}" in page
    low, high = expected["test/class_ci95"]
    assert f"over classes {100 * low:.1f} to {100 * high:.1f} %" in page
    assert f"hash {expected['test/episodes_hash']}" in page
    assert expected["test/protocol"] in page
    assert "python -m episodic.report run=ours against=theirs task.n_way=4 episodes=60 seed=3" in page
    pictures = {path.stem for path in folder.glob("*.png")}
    assert {"classes", "classes-dark", "training", "worst-episode"} < pictures


def test_the_page_says_where_a_run_began_what_its_curves_are_of_and_what_chose_it(runs):
    (runs / "begun").mkdir(exist_ok=True)
    shutil.copytree(runs / "ours", runs / "begun", dirs_exist_ok=True)
    config = OmegaConf.load(runs / "begun" / "config.yaml")
    config.init_from, config.task.train.n_way = "theirs", 7
    OmegaConf.save(config, runs / "begun" / "config.yaml")
    texts = {}
    for name, other, split in (("begun", "ours", "val"), ("ours", "begun", "train"), ("ours", "begun", "test")):
        run(runs, "report", f"run={name}", f"against={other}", f"split={split}", "episodes=30", "out=said")
        texts[split] = Reader((runs / "said" / "report.html").read_text()).text
    assert "began fromtheirs" in texts["val"]
    assert "began from" in texts["test"].split("against")[1]
    assert "began from" not in texts["test"].split("against")[0]
    assert "train/accuracy (7-way 1-shot)" in texts["val"]
    assert "val/accuracy (3-way 1-shot)" in texts["val"]
    chosen, trained = "Validation chose the best checkpoint on these classes", "The run was trained on these classes"
    assert {split: (chosen in text, trained in text) for split, text in texts.items()} == {
        "val": (True, False),
        "train": (False, True),
        "test": (False, False),
    }
    assert all("stand in" not in text for text in texts.values())


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


def test_classes_that_stand_in_for_others_are_said_to(runs):
    cfg = OmegaConf.create({"run": str(runs / "ours"), "split": "test", "task": {"dataset": {"_target_": "other"}}})
    said = "There are no test classes on disk; the validation classes stand in for them."
    store = random_store(split="val")
    assert caution(cfg, store) == said  # training had nothing of another data set
    cfg.task = Run(runs / "ours").config().task
    assert caution(cfg, store).startswith(f"{said} Validation chose the best checkpoint")


def test_the_same_command_writes_the_same_page(runs):
    pages, words = [], ["run=theirs", "against=null", "episodes=30", "split=val", "out=again, [it's] odd"]
    for _ in range(2):
        run(runs, "report", *words)
        pages.append((runs / "again, [it's] odd" / "report.html").read_text())
        words = shlex.split(html.unescape(re.search("<pre>python -m episodic.report (.*)</pre>", pages[-1])[1]))
        assert words == ["run=theirs", "against=null", "episodes=30", "split=val", "out=again, [it's] odd"]
    assert pages[0] == pages[1]
    assert not (runs / "theirs" / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=nowhere"], "nowhere is not a run"),
        (["run=empty"], "no readable checkpoint"),
        (["run=ours", "split=tset"], "split must be one of train, val, test, got 'tset'"),
        (["run=ours", "out=pictures/class00/0.png/report"], "cannot be written to pictures/class00/0.png/report"),
        (["run=ours", "against=nowhere"], "nowhere is not a run"),
    ],
)
def test_bad_input_is_answered_without_a_traceback(runs, arguments, message):
    (runs / "empty").mkdir(exist_ok=True)
    shutil.copy(runs / "ours" / "config.yaml", runs / "empty")
    output = run(runs, "report", *arguments, code=2)
    assert message in output
    assert "Traceback" not in output
    assert not list((runs / "empty").glob("report*"))


def test_a_report_needs_a_run():
    with pytest.raises(ConfigError, match=r"episodic\.report run=<dir>"):
        with_run(["episodes=10"])


def test_a_full_disk_is_said_in_a_line(tmp_path):
    with (
        pytest.raises(OSError, match=r"cannot be written to .* \(No space left on device\); out=<dir>"),
        writing(tmp_path),
    ):
        Path("/dev/full").write_text("page")
