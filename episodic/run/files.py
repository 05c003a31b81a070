"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file beside `path` that is open for writing, and takes its place once all is written and on the disk.

    Where writing fails, or the process dies, what stood at `path` before stays.
    """
    building = path.with_name(f".{path.name}-building")
    try:
        with open(building, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(building, path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_file(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
