"""What tests of the rows share: running the script, and what every compared row must have."""

import importlib.util
import json
import subprocess
import sys

import pytest


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def run(scripts, tmp_path, *arguments):
    """The script's output and its JSON, measured as briefly as it goes."""
    file = tmp_path / "rows.json"
    command = [sys.executable, str(scripts / "benchmark.py"), "--seconds", "0.05", "--repeats", "1"]
    done = subprocess.run([*command, "--json", str(file), *arguments], capture_output=True, text=True, check=True)
    return done.stdout, json.loads(file.read_text())


def check(rows, targets):
    assert [(row["row"], row["target"]) for row in rows] == list(targets.items())
    for row in rows:
        assert set(row) == {"row", "ours", "peer", "unit", "ratio", "target"}
        assert row["unit"] == "episodes/s"
        assert row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
