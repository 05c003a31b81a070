"""One writer for a folder. The operating system holds the lock, and a small file says who has it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from episodic.config.compose import ConfigError
from episodic.run.files import write_atomically

LOCK, WRITER = ".lock", ".writer"  # files in the folder: what is locked, and who locked it, in words
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # how file systems that have no locks answer


class WriterLock:
    """Keeps other writers out of a folder while it is entered; the folder is made where there is none. Those who only read need no
    lock.

    The system frees the lock when the process ends, however it ends, and forked children do not keep it. So what a dead writer left
    stops nobody. On a file system without locks a note says that nothing is kept out.

    **Raises:** `ConfigError` where another has the folder, with its process, its machine and its time; `OSError`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, WriterLock(Path(folder)):
    ...     try:
    ...         WriterLock(Path(folder)).__enter__()
    ...     except ConfigError as error:
    ...         print(str(error).startswith(f"{folder} is in use: process {os.getpid()} on"))
    True
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = FileLock(folder / LOCK)
        self._inode: int | None = None

    def __enter__(self) -> WriterLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"{self.folder} is in use: {self._writer()} writes there. Wait for it or end it, or take another run=<dir>"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            print(f"Note: {self.folder} is on a file system without locks: see to it that nothing else trains there")
        with contextlib.suppress(FileNotFoundError):
            self._inode = (self.folder / LOCK).stat().st_ino
        facts = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_atomically(self.folder / WRITER, json.dumps(facts))  # where it is a link, the link is replaced
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_there():
            with contextlib.suppress(OSError):  # where the folder can no longer be written, that was told before
                (self.folder / WRITER).unlink(missing_ok=True)
        self._lock.release()

    def check(self) -> None:
        """Before something is written: make sure that the folder is still the one that was locked.

        **Raises:** `FileNotFoundError` where it was deleted or moved, or another took its place.
        """
        if not self._is_there():
            raise FileNotFoundError(errno.ENOENT, "the folder was deleted or moved", str(self.folder))

    def _is_there(self) -> bool:
        try:
            return (self.folder / LOCK).stat().st_ino == self._inode
        except FileNotFoundError:  # a lock's file alone may be swept away
            return self.folder.is_dir()

    def _writer(self) -> str:
        """Whoever has the lock, as it wrote itself."""
        try:
            facts = json.loads((self.folder / WRITER).read_text())
            return f"process {facts['process']} on {facts['host']}, which since {facts['since']}"
        except (OSError, ValueError, LookupError, TypeError):
            return "another process"
