import os
import re
import subprocess
import sys

import pytest

from tests.command import run_command


def test_mistakes_on_the_command_line_end_in_two_lines_without_traceback():
    """A real process, as a user starts it."""
    command = [sys.executable, "-m", "episodic.train", "task=minimagenet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith("episodic.train: unknown task=minimagenet. Did you mean 'miniimagenet_5w")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_works(tmp_path, flag):
    code, out, _ = run_command("train", flag, cwd=tmp_path)
    assert code == 0
    assert "matching_omniglot" in out


def test_the_configuration_can_be_looked_at(tmp_path):
    code, out, _ = run_command("train", "--cfg", "job", "learner=matching", cwd=tmp_path)
    assert code == 0
    assert re.search(r"scale: 30\.0", out)


def test_evaluate_asks_for_a_run(tmp_path):
    assert "which run?" in run_command("evaluate", cwd=tmp_path)[2]
    code, _, said = run_command("evaluate", f"run={tmp_path}", cwd=tmp_path)
    assert code == 2
    assert "is no run: it has no config.yaml" in said


@pytest.mark.parametrize(
    "option", ["augment=standard", "task.train.n_way=3", "task.labeled_fraction=0.5", "+augment.flip=true"]
)
def test_evaluate_refuses_what_counts_in_training_alone(tmp_path, option):
    code, _, said = run_command("evaluate", "run=anything", option, cwd=tmp_path)
    assert code == 2
    assert "would have no effect here" in said
