"""Folders that are there whole or not at all. They are built beside their place, brought to the disk and renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """A hidden folder beside `place` to build in. It is removed at the end, unless `put_in_place` has moved it.

    A process that is killed leaves its folder. The next call for the same parent removes it. The folder of a process that is still
    running is locked, so it stays.

    **Raises:** `OSError` where nothing can be written there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent, new_folder(Path(parent) / "entry") as building:
    ...     building.is_dir(), building.parent == Path(parent)
    (True, True)
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    with _locked_folder(place) as building:
        yield building


def put_in_place(building: Path, place: Path, is_whole: Callable[[], bool]) -> None:
    """Rename the folder `building` to `place`, on the disk as well. What is at `place` already stays if `is_whole()` says that
    another process has finished it meanwhile; otherwise it is removed.

    Processes that have files of the removed folder mapped into memory keep them.

    **Raises:** `OSError` where it cannot be renamed.
    """
    flush(building)
    while True:
        try:
            os.rename(building, place)
        except OSError:
            if not os.path.lexists(place):
                raise
        else:
            flush(place.parent)
            return
        if is_whole():
            return
        with _locked_folder(place) as aside, contextlib.suppress(FileNotFoundError):  # another process moved it
            os.rename(place, aside / place.name)


def remove(path: Path) -> None:
    """Remove what is at `path`: a file, a link, or a folder with all that is in it. What cannot be removed stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def flush(path: Path) -> None:
    """Bring the content of a file, or the list of files in a folder, to the disk. It lasts through a power cut then."""
    if os.name == "posix":  # others cannot open a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _locked_folder(place: Path) -> Iterator[Path]:
    while True:
        folder = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
        folder.mkdir()
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(_lock(folder))
            except BlockingIOError:
                continue  # another process is sweeping it
            except OSError:
                pass  # a file system without locks: nothing can be swept there either
            if not folder.exists():
                continue  # another process has swept it
            try:
                yield folder
            finally:
                remove(folder)
            return


def _sweep(parent: Path) -> None:
    for folder in parent.glob(".*-*"):
        with contextlib.suppress(OSError), _lock(folder):
            remove(folder)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """**Raises:** `BlockingIOError` where another process has the lock; `OSError` where there are no locks."""
    if os.name != "posix":
        raise OSError("folders cannot be locked on this system")
    import fcntl  # POSIX only

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
