"""The doctor as a command: clean folders, missing splits, options that cannot be, and its exit code."""

import os
import re
import subprocess
import sys

import pytest

from episodic.config.compose import ConfigError, compose_config
from episodic.config.paths import quoted_arguments
from episodic.doctor.__main__ import main, with_data
from tests.command import run_command
from tests.doctor.examining import SMALL, examined


def test_nothing_is_found_in_a_clean_folder(birds, capsys):
    assert examined(birds) == {}
    output = capsys.readouterr().out
    assert output.splitlines()[2].split() == ["train", "24", "4", "-", "6", "/", "6", "/", "6", "all", "alike"]
    assert output.endswith("\nerror: 0, warning: 0, ok: 15\n")


def test_what_the_data_set_refuses_is_an_error_said_once(birds):
    (birds / "val" / "val0").rename(birds / "val" / "train0")
    [(mark, text, _)] = examined(birds, code=1)["files"]
    assert mark == "error"
    assert "train and val share 1 classes, e.g. train0" in text


def test_a_split_that_another_stands_in_for_is_said_and_not_taken_for_a_leak(birds):
    for file in sorted((birds / "val").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    assert examined(birds).keys() == {"files"}
    (mark, text, _), (_, empty, _) = examined(birds)["files"]
    assert empty == "folders with nothing in them: 1"
    assert mark == "warning"
    assert text.startswith("val: train classes stand in for it, since ")
    assert "has no val images" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["near=17"], "near must be a number of bits in 0..16, or null, got 17"),
        (["out=report.txt"], "out must be a file .json or .csv in a folder that is there, got report.txt"),
        (["out=nowhere/report.csv"], "in a folder that is there, got nowhere/report.csv"),
        (["run=nowhere"], "nowhere is no run"),
        (["task.dataset.corrupt=hide"], "task.dataset.corrupt must be error or skip, got 'hide'"),
        (["task.within_super_class=true"], "has no super-classes"),
    ],
)
def test_bad_options_are_refused(birds, options, message):
    with pytest.raises((ConfigError, FileNotFoundError), match=message):
        main(compose_config("doctor", quoted_arguments([f"data={birds}", *SMALL, *options], with_data)))


def test_data_stands_for_the_task_of_a_folder():
    assert with_data(["task=omniglot_5w1s", "near=3"]) == ["task=omniglot_5w1s", "near=3"]
    assert with_data(["data=a b", "task=folder_5w5s"])[-1] == "task.dataset.path=a b"
    cfg = compose_config("doctor", quoted_arguments(["data=it's {1}, a=b"], with_data))
    assert cfg.task.dataset.path == cfg.data == "it's {1}, a=b"
    for wrong in ([], ["near=3"], ["data="], ["data=x", "task=omniglot_5w1s"]):
        with pytest.raises(ConfigError, match="data=<dir>"):
            with_data(wrong)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("augment=crop_flip", "augment would have no effect here: the doctor looks at the images as they are stored"),
        ("device=cpu", "unknown option 'device'"),
        ("precision=fp32", "unknown option 'precision'"),
    ],
)
def test_what_the_doctor_does_not_read_is_refused(birds, option, said):
    code, _, printed = run_command("doctor", f"data={birds}", *SMALL, option, cwd=birds.parent)
    assert code == 2
    assert said in printed


def test_bad_input_has_another_exit_code_than_faulty_data(tmp_path):
    code, _, printed = run_command("doctor", "data=nowhere", cwd=tmp_path)
    assert code == 2
    assert re.search(r"^episodic\.doctor: .*nowhere is no folder", printed)


def test_the_command_is_a_module_that_runs_and_tells_faulty_data_by_its_exit_code(birds):
    """A real process, as a user starts it."""
    (birds / "test" / "test0" / "0.png").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "episodic.doctor", f"data={birds}", *SMALL], capture_output=True, text=True, timeout=200,
        cwd=birds.parent, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"\n  test +test/test0/0\.png +the file is empty", done.stdout)
    assert "Traceback" not in done.stderr
