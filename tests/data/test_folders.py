"""Folders are there whole or not at all, also where processes die or build the same one at once."""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

import pytest

from episodic.data.folders import flush, new_folder, put_in_place, remove


@pytest.fixture
def builder(tmp_path):
    """Another process that is building the folder `entry`, and the folder that it builds in."""
    told, tell = os.pipe()
    process = os.fork()
    if process == 0:
        with new_folder(tmp_path / "entry") as building:
            (building / "half").write_text("...")
            os.write(tell, os.fsencode(building))
            signal.pause()
    building = Path(os.fsdecode(os.read(told, 4096)))
    os.close(told)
    os.close(tell)
    yield process, building
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_builds_stays(tmp_path, builder):
    process, building = builder
    with new_folder(tmp_path / "other"):
        assert (building / "half").exists()
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert building.exists()
    with new_folder(tmp_path / "other") as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["before it is opened", "before it is locked", "while it is locked"])
def test_a_folder_that_is_swept_as_soon_as_it_is_made_is_made_again(tmp_path, monkeypatch, step):
    module, name = (os, "open") if step == "before it is opened" else (fcntl, "flock")
    function, made = getattr(module, name), []

    def swept_first(*arguments, **keywords):
        if not made:
            made.extend(tmp_path.iterdir())
            remove(made[0])
            if step == "while it is locked":
                raise BlockingIOError
        return function(*arguments, **keywords)

    monkeypatch.setattr(module, name, swept_first)
    with new_folder(tmp_path / "entry") as building:
        assert building.is_dir()
        assert building != made[0]


def test_where_there_are_no_locks_nothing_is_swept(tmp_path, monkeypatch):
    (tmp_path / ".entry-left").mkdir()

    def unknown(*arguments):
        raise OSError

    monkeypatch.setattr(fcntl, "flock", unknown)
    put(tmp_path / "entry", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".entry-left", "entry"]


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


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_flush_says_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "nothing")
