"""The gallery: every script runs as it stands, offline, and learns what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.rglob("*.py") if '__name__ == "__main__"' in path.read_text())
PERCENT = re.compile(r"^(?P<what>.*?):? +(?P<mean>-?[\d.]+) ± (?P<half>[\d.]+)", re.MULTILINE)

# What each script must print, and the least of it in percent; by chance it is 20 in five ways, and 1 for Recall@1.
LEAST = {
    "metric_learning": {"recall@1 before": 2, "recall@1 after": 30, "map@r after": 7, "5-way 1-shot by cosine": 70},
    "migrating": {"easyfsl's loop": 70, "learn2learn's loop": 70, "torchmeta's loop": 70},
    "own_backbone": {"prototypical": 50, "matching": 55},
    "own_data_set": {"the folder's test classes": 60, "digits 5 to 9": 50},
    "own_learner/run": {"val": 80, "test": 65},
    "sampler_alone": {"pixels": 38, "prototypical network": 58},
    "semi_supervised": {
        "support alone": 60,
        "with unlabeled images": 65,
        "difference on the same tasks": 2,
        "unlabeled images labeled rightly": 60,
    },
}


def name_of(path):
    return str(path.relative_to(EXAMPLES).with_suffix(""))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the gallery outside the checkout, so that nothing is found by lying beside the package."""
    return shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("elsewhere") / "examples")


def run(place, *words, cwd=None):
    cache = place.parent / "cache"  # the letters are drawn once for all scripts
    environment = {**os.environ, "EPISODIC_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd or place.parent, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_every_example_prints_an_accuracy_well_above_chance(path, place):
    assert name_of(path) in LEAST, "a new example: say here what it prints"
    output = run(place, place / path.relative_to(EXAMPLES))
    found = [(match["what"], float(match["mean"]), float(match["half"])) for match in PERCENT.finditer(output)]
    for what, least in LEAST[name_of(path)].items():
        values = [(mean, half) for text, mean, half in found if what in text]
        assert values, f"{what} is not in\n{output}"
        for mean, half in values:
            assert mean > least, what
            assert 0 < half < 3, what


def test_the_learner_from_outside_passes_its_own_test(place):
    output = run(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=place / "own_learner")
    assert "2 passed" in output


def test_the_files_of_an_own_learner_are_three_of_one_stem():
    stem = "soft_neighbors"
    for name in (f"{stem}.py", f"conf/learner/{stem}.yaml", f"test_{stem}.py"):
        assert (EXAMPLES / "own_learner" / name).is_file()


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_examples_are_short_and_say_what_they_show(path):
    text = path.read_text()
    assert text.startswith('"""')
    assert "rints" in text.split('"""')[1]
    assert 15 <= len(text.splitlines()) <= 90
