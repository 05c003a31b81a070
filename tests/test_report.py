"""The report of a run from the command line: the numbers of `evaluate`, files that stand alone, and what goes wrong."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from episodic.config import ConfigError, command
from episodic.evaluate import main as evaluate
from episodic.evaluate import with_saved_parts
from episodic.report import main as report
from episodic.report import with_run, writing
from episodic.train import train
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


def test_the_same_command_writes_the_same_page(runs):
    pages = []
    for _ in range(2):
        run(runs, "report", "run=theirs", "episodes=30", "split=val", "out=again")
        pages.append((runs / "again" / "report.html").read_bytes())
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
