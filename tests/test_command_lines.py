"""Wrong command lines are answered in a line or two that name the mistake, and change nothing."""

import re

import pytest

from tests.command import run_command
from tests.wrong_lines import SMALL, WRONG

# What is told of lines whose mistake has no name of its own.
UNNAMED = {"init_from=3": "3 is no run", "run=run": "which examples?"}
LINES = [(name, line) for name, lines in WRONG.items() for line in lines.strip("\n").split("\n")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained run and nothing else."""
    folder = tmp_path_factory.mktemp("lines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISODIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        code, _, said = run_command("train", *SMALL, "backbone.widths=[4,4]", "run=run", cwd=folder)
        assert code == 0, said
        yield folder


def files(folder):
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file())


def fault_of(name, line, place):
    """What is wrong with the answer to a wrong line; None where it is as it should be."""
    before, arguments = files(place), line.split()
    if name in ("train", "cross_validate"):
        arguments = [*SMALL, *([] if "run=" in line else ["run=new"]), *arguments]
    code, _, said = run_command(name, *arguments, cwd=place)
    text = re.split("Expected one of|one of these layouts", said)[0]  # the layouts of a data set take a line each
    words = {word.lower() for option in line.split() for word in re.split(r"[=.\[\],]", option) if len(word) > 1}
    named = any(word in said.lower() for word in words or {line}) or UNNAMED.get(line, line) in said
    right = {
        "code 2": code == 2,
        "the command's name first": said.startswith((f"episodic.{name}: ", "usage: ")),
        "no traceback": "Traceback" not in said,
        "two lines": len(text.splitlines()) <= 3 or text.startswith("usage: "),
        "the mistake's name": named,
        "no file changed": files(place) == before,
    }
    missing = [what for what, holds in right.items() if not holds]
    return f"without {', '.join(missing)}: {code} {said}" if missing else None


QUICK = LINES[::4]
OTHERS = [line for i, line in enumerate(LINES) if i % 4]


@pytest.mark.parametrize(("name", "line"), QUICK, ids=[f"{name} {line}" for name, line in QUICK])
def test_a_wrong_line_is_answered(name, line, place):
    assert fault_of(name, line, place) is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line"), OTHERS, ids=[f"{name} {line}" for name, line in OTHERS])
def test_so_are_the_others(name, line, place):
    assert fault_of(name, line, place) is None
