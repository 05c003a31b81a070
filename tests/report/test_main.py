"""The report of a run from the command line: the numbers of `evaluate`, files that stand alone, and what goes wrong."""

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from episodic.report.__main__ import writing
from episodic.run.run import Run
from tests.command import run_command
from tests.report.reader import Reader

SHAPE = ["task.n_way=4", "episodes=60", "seed=3"]
SMALL = ["task=folder_5w1s", "task.dataset.path=pictures", "task.channels=1", "task.image_size=16", "task.n_way=3",
         "task.n_query=3", "augment=none", "backbone.widths=[8,8,8,8]", "device=cpu", "precision=fp32", "trainer.steps=10",
         "trainer.validate_every=10", "trainer.save_every=5", "trainer.validation_episodes=20", "episodes=40"]  # fmt: skip


def run(place, name, *arguments, code=0):
    """What a command says; in this process, which has imported everything already."""
    ended, out, err = run_command(name, *arguments, cwd=place, environment={"EPISODIC_CACHE": str(place / "cache")})
    assert ended == code, out + err
    return out + err


@pytest.fixture(scope="module")
def runs(pictures):
    """The folder around `pictures`, with two runs on them."""
    for seed, name in enumerate(("ours", "theirs")):
        run(pictures.parent, "train", f"run={name}", f"seed={seed}", *SMALL)
    return pictures.parent


def test_the_page_has_the_numbers_of_evaluate(runs):
    run(runs, "evaluate", "run=ours", "against=theirs", *SHAPE)
    expected = json.loads(Run(runs / "ours").evaluations()[-1].read_text())
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
        (["run=nowhere"], "nowhere is no run"),
        (["run=empty"], "no readable checkpoint"),
        (["run=ours", "split=tset"], "split must be train, val or test, got 'tset'"),
        (["run=ours", "out=pictures/class00/0.png/report"], "cannot be written to pictures/class00/0.png/report"),
        (["run=ours", "against=nowhere"], "nowhere is no run"),
    ],
)
def test_bad_input_is_answered_without_a_traceback(runs, arguments, message):
    (runs / "empty").mkdir(exist_ok=True)
    shutil.copy(runs / "ours" / "config.yaml", runs / "empty")
    output = run(runs, "report", *arguments, code=2)
    assert message in output
    assert "Traceback" not in output
    assert not list((runs / "empty").glob("report*"))


def test_a_report_needs_a_run(tmp_path):
    assert "which run? Give run=<dir>" in run(tmp_path, "report", "episodes=10", code=2)


def test_a_full_disk_is_said_in_a_line(tmp_path):
    with (
        pytest.raises(OSError, match=r"cannot be written to .* \(No space left on device\); out=<dir>"),
        writing(tmp_path),
    ):
        Path("/dev/full").write_text("page")


@pytest.mark.parametrize("option", ["augment=crop_flip", "trainer.steps=5", "trainer=dml", "task.train.n_way=4"])
def test_what_only_training_reads_is_refused(runs, option):
    assert f"{option.split('=')[0]} would have no effect here: a report" in run(
        runs, "report", "run=ours", option, code=2
    )


def test_the_command_is_a_module_that_runs(runs):
    """A real process, as a user starts it."""
    command = [sys.executable, "-m", "episodic.report", "run=ours", "episodes=20", "split=val", "out=real"]
    environment = {**os.environ, "EPISODIC_CACHE": str(runs / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(Path("real") / "report.html")
    assert (runs / "real" / "report.html").is_file()


def test_links_in_the_folder_of_a_run_are_not_followed(runs, tmp_path):
    """A stranger's run could have them, to files and folders of the user."""
    theirs = shutil.copytree(runs / "ours", tmp_path / "theirs", ignore=shutil.ignore_patterns("report"))
    (tmp_path / "mine").mkdir()
    (theirs / "report").symlink_to(tmp_path / "mine")
    assert "is a link to" in run(runs, "report", f"run={theirs}", *SHAPE, code=2)
    assert not list((tmp_path / "mine").iterdir())
    (theirs / "report").unlink()
    (theirs / "report").mkdir()
    precious = tmp_path / "mine" / "file"
    precious.write_text("precious")
    drawn = [path.name for path in (runs / "ours" / "report").glob("*.png")]
    assert drawn
    for name in drawn:
        (theirs / "report" / name).symlink_to(precious)
    run(runs, "report", f"run={theirs}", *SHAPE)
    assert precious.read_text() == "precious"
