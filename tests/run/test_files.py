import errno
import os

import pytest

from episodic.run.files import atomic_file, write_atomically


@pytest.mark.parametrize("content", ["text\n", b"bytes"])
def test_a_file_is_written_whole(tmp_path, content):
    path = tmp_path / "file"
    write_atomically(path, content)
    assert (path.read_bytes() if isinstance(content, bytes) else path.read_text()) == content
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def half():
        with atomic_file(path) as file:
            file.write("new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nobody_sees_a_part(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with atomic_file(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_rename_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"


def test_a_link_that_lies_where_a_file_is_built_is_not_followed(tmp_path):
    """A stranger's folder could have it, to another file of the user."""
    other = tmp_path / "other"
    other.write_text("theirs")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("file", ".file-building"):
        (folder / name).symlink_to(other)
    write_atomically(folder / "file", "new")
    assert other.read_text() == "theirs"
    assert (folder / "file").read_text() == "new"
    assert not (folder / "file").is_symlink()
