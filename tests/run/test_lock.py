import errno
import fcntl
import json
import os
import signal
import socket

import pytest

from episodic.config.compose import ConfigError
from episodic.run.lock import WriterLock


def child(function):
    """A forked process that calls `function` and ends; its id."""
    process = os.fork()
    if process == 0:
        try:
            function()
        finally:
            os._exit(0)
    return process


def locks(folder):
    """Whether another process can have the folder."""
    read, write = os.pipe()

    def attempt():
        with WriterLock(folder):
            os.write(write, b"1")

    process = child(attempt)
    os.waitpid(process, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        return answer.read() == "1"


def test_the_folder_is_made_and_tidy_afterwards(tmp_path):
    folder = tmp_path / "runs" / "a"
    with WriterLock(folder):
        facts = json.loads((folder / ".writer").read_text())
        assert facts.keys() == {"process", "host", "since"}
        assert not locks(folder)
    assert {path.name for path in folder.iterdir()} <= {".lock"}
    assert locks(folder)


def test_the_second_is_told_of_the_first(tmp_path):
    with WriterLock(tmp_path):
        with pytest.raises(ConfigError) as refused:
            WriterLock(tmp_path).__enter__()
        first = f"process {os.getpid()} on {socket.gethostname()}"
        assert str(refused.value).startswith(f"{tmp_path} is in use: {first}, which since 20")
        (tmp_path / ".writer").write_text("[")
        with pytest.raises(ConfigError, match="is in use: another process writes there"):
            WriterLock(tmp_path).__enter__()


def killed(folder, meanwhile=lambda: None):
    """A process that had the folder and was killed; `meanwhile`: what it did with it."""
    read, write = os.pipe()

    def hold():
        with WriterLock(folder):
            meanwhile()
            os.write(write, b"1")
            signal.pause()

    process = child(hold)
    assert os.read(read, 1) == b"1"
    assert not locks(folder)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(read)
    os.close(write)


def test_what_a_dead_writer_left_stops_nobody(tmp_path):
    killed(tmp_path)
    assert (tmp_path / ".writer").exists()
    assert locks(tmp_path)


def test_children_of_a_dead_writer_do_not_keep_the_folder(tmp_path):
    read, write = os.pipe()

    def beget():
        inner = child(signal.pause)
        os.write(write, inner.to_bytes(4, "little"))

    killed(tmp_path, beget)
    inner = int.from_bytes(os.read(read, 4), "little")
    try:
        os.kill(inner, 0)  # it lives
        assert locks(tmp_path)
    finally:
        os.kill(inner, signal.SIGKILL)


def test_a_child_that_ends_leaves_the_lock_to_its_parent(tmp_path):
    with WriterLock(tmp_path):
        os.waitpid(child(lambda: None), 0)
        assert not locks(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_note_says_so(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with WriterLock(tmp_path) as lock:
        lock.check()
        assert (tmp_path / ".writer").exists()
    assert capsys.readouterr().out.startswith(f"Note: {tmp_path} is on a file system without locks")
    assert not (tmp_path / ".writer").exists()


def test_any_other_error_is_told_as_it_is(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        WriterLock(tmp_path).__enter__()


def test_only_the_lock_file_was_swept_away(tmp_path):
    with WriterLock(tmp_path) as lock:
        (tmp_path / ".lock").unlink()
        lock.check()


def test_a_folder_that_was_moved_is_found_missing(tmp_path):
    with WriterLock(tmp_path / "a") as lock:
        (tmp_path / "a").rename(tmp_path / "b")
        with pytest.raises(FileNotFoundError, match="the folder was deleted or moved"):
            lock.check()


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    """A stranger's run could have it, to another file of the user."""
    other = tmp_path / "other"
    other.write_text("theirs")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".writer").symlink_to(other)
    with WriterLock(folder):
        assert not locks(folder)
    assert other.read_text() == "theirs"
