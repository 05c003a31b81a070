"""What the README says is so: its commands run, its table is made from records."""

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("bash", "python")}
QUICK = ["trainer.steps=40", "trainer.validate_every=20", "trainer.validation_episodes=50", "trainer.save_every=20",
         "task.train.n_way=5", "task.dataset.drawings=20"]  # fmt: skip


def run(command, cwd, cache):
    environment = {**os.environ, "EPISODIC_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sampler_alone_on_digits(tmp_path):
    [code] = BLOCKS["python"]
    mean, half = map(
        float, re.fullmatch(r"([\d.]+) ± ([\d.]+) %\n", run([sys.executable, "-c", code], tmp_path, tmp_path)).groups()
    )
    assert 68 < mean < 80, "raw pixels of digits, five ways, one shot"
    assert 0.3 < half < 0.8


@pytest.mark.timeout(1200)
def test_every_command_runs(tmp_path):
    """The commands as they stand, in order, with fewer steps and episodes."""
    commands = [shlex.split(line, comments=True) for block in BLOCKS["bash"][2:] for line in block.splitlines()]
    assert len(commands) == 15
    strangers_pictures(tmp_path)
    for words in commands:
        assert words[0] == "python"
        if "episodic.demo.server" in words:
            serve([sys.executable, *words[1:], "port=0"], tmp_path)
            continue
        training = not {"episodic.train", "episodic.cross_validate"}.isdisjoint(words)
        scored = not {"episodic.evaluate", "episodic.report"}.isdisjoint(words) and "episodes=2000" not in words
        extra = [*QUICK, "episodes=100"] if training else ["episodes=100"] * scored
        extra += ["repeats=1", "task.folds=2"] if "episodic.cross_validate" in words else []
        run([sys.executable, *words[1:], *extra], tmp_path, tmp_path)
    assert (tmp_path / "runs" / "prototypical" / "evaluation.json").exists()
    assert (tmp_path / "runs" / "prototypical" / "report" / "report.html").exists()
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert len(answers) == 6
    assert {answer["class"] for answer in answers} <= {"bars", "rings", "dots"}


def strangers_pictures(place):
    """Two examples of three classes, two photos of each, and one further picture."""
    random = np.random.default_rng(0)
    for name in ("bars", "rings", "dots"):
        pattern = random.random((7, 7)) > 0.6
        for i in range(5):
            folder = place / ("more" if i == 4 else "photos" if i > 1 else f"shots/{name}")
            folder.mkdir(parents=True, exist_ok=True)
            shifted = np.roll(np.kron(pattern, np.ones((8, 8))), i, axis=1)
            Image.fromarray((255 * shifted).astype(np.uint8)).save(folder / f"{name}{i}.png")


def serve(command, place):
    """A command that goes on until it is interrupted."""
    environment = {**os.environ, "EPISODIC_CACHE": str(place)}
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell may have told to ignore it
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, text=True, cwd=place, env=environment, preexec_fn=heed) as server:
        said = next(line for line in server.stdout if "http://127.0.0.1" in line)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0, said


def test_the_two_set_up_commands_are_those_of_ci():
    first, second = (block.split("#")[0].strip() for block in BLOCKS["bash"][:2])
    assert first == "pip install uv && uv run --no-dev python -m episodic.train"
    assert second == "pip install uv && uv run pytest"
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q uv" in ci
    assert "uv run pytest" in ci


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_results_table_is_what_the_records_say():
    subprocess.run([sys.executable, ROOT / "scripts" / "table.py", "--check"], check=True)


def test_about_one_page():
    assert len(README.splitlines()) <= 140
