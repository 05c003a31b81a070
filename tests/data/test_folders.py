"""Folders are there whole or not at all, also where processes die or build the same one at once."""

import os
import signal
import subprocess
import sys

import pytest

from episodic.data.folders import flush, new_folder, put_in_place, remove

BUILD = """
import sys, time
from pathlib import Path
from episodic.data.folders import new_folder
with new_folder(Path(sys.argv[1])) as building:
    (building / "half").write_text("...")
    print(building, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def builder(tmp_path):
    """Another process that is building the folder `entry`, and the folder that it builds in."""
    command = [sys.executable, "-c", BUILD, str(tmp_path / "entry")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process, tmp_path / process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_builds_stays(tmp_path, builder):
    process, building = builder
    with new_folder(tmp_path / "other"):
        assert (building / "half").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert building.exists()
    with new_folder(tmp_path / "other") as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, made = os.open, []

    def swept_first(path, *rest, **where):
        if not made:
            made.append(path)
            remove(path)
        return lock(path, *rest, **where)

    monkeypatch.setattr(os, "open", swept_first)
    with new_folder(tmp_path / "entry") as building:
        assert building.is_dir()
        assert building != made[0]


def put(place, text, is_whole=lambda: False):
    with new_folder(place) as building:
        (building / "text").write_text(text)
        put_in_place(building, place, is_whole)


def wreck(place, kind):
    remove(place)
    if kind == "folder":
        place.mkdir()
        (place / "wreck").write_text("")
    elif kind == "file":
        place.write_text("")
    elif kind == "loop":
        place.symlink_to(place)
    elif kind == "link":
        place.symlink_to(place.parent)


@pytest.mark.parametrize("kind", ["nothing", "folder", "file", "loop", "link"])
def test_takes_the_place_of_anything_that_is_not_whole(tmp_path, kind):
    place = tmp_path / "below" / "entry"
    put(place, "first")
    wreck(place, kind)
    put(place, "second")
    assert (place / "text").read_text() == "second"
    assert [path.name for path in place.parent.iterdir()] == ["entry"]


def test_what_another_process_finished_stays(tmp_path):
    put(tmp_path / "entry", "theirs")
    put(tmp_path / "entry", "ours", is_whole=lambda: True)
    assert (tmp_path / "entry" / "text").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_is_on_the_disk_before_and_after_it_is_renamed(tmp_path, monkeypatch):
    steps = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda d: (steps.append(os.fstat(d).st_ino), sync(d)))
    monkeypatch.setattr(os, "rename", lambda *paths: (steps.append("rename"), rename(*paths)))
    put(tmp_path / "entry", "text")
    assert steps == [(tmp_path / "entry").stat().st_ino, "rename", tmp_path.stat().st_ino]


def test_flush_says_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "nothing")
