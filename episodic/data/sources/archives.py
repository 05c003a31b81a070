"""Archives from strangers, unpacked into the cache: nothing of them lands outside one folder, and they cannot fill the disk."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from pathlib import Path

from episodic.data.cache import cache_dir, files_stamp
from episodic.data.folders import new_folder, put_in_place
from episodic.data.store import digest

# The largest archive that a data set has here holds 12 GB (tieredImageNet), the one of most files about 12,000 (CUB).
MOST_BYTES = 32 << 30
MOST_FILES = 1_000_000
# Bytes that come before the content of a file: real ones take 512, or a few thousand for a long name.
_HEADERS = 1 << 20


def unpacked(archive: Path) -> Path:
    """A folder in the cache that holds what is in a tar file, with gzip or without. It is unpacked at the first call.

    **Raises:** `ValueError` where the archive is damaged, or holds something that `ArchiveFilter` refuses.
    """
    stem = archive.name.split(".")[0]
    folder = cache_dir() / "unpacked" / f"{stem}-{digest(str(archive.resolve()), files_stamp([archive]))}"
    if folder.is_dir():
        return folder
    with new_folder(folder) as building:
        try:
            _unpack(archive, str(building))
        except tarfile.FilterError as error:
            raise ValueError(
                f"{archive} cannot be unpacked: {error}. No data set needs that: delete it and get it from another place."
            ) from None
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, FileExistsError, NotADirectoryError) as error:
            reason = str(error).partition(":")[0]
            raise ValueError(
                f"{archive} cannot be unpacked ({reason}): it is damaged or cut short. Delete it and get it again."
            ) from None
        put_in_place(building, folder, folder.is_dir)
    return folder


def _unpack(archive: Path, folder: str) -> None:
    """Writes one file after the other, so that a bomb is refused before it has grown."""
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = _Metered(gzip.GzipFile(fileobj=file) if packed else file)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            keep = ArchiveFilter()
            while (member := tar.next()) is not None:
                stream.allowance = member.size + _HEADERS
                tar.extract(member, folder, filter=keep)
                stream.allowance = _HEADERS


class ArchiveFilter:
    """Takes files and folders of an archive, up to `MOST_FILES` and `MOST_BYTES`, as a `filter` of `tarfile`.

    It is stricter than Python's own filter `"data"`, which it calls: that one allows links within the folder, changes absolute
    names instead of refusing them, lets a later file replace an earlier one, and has no limits.

    >>> tar = tarfile.TarInfo("../../outside")
    >>> ArchiveFilter()(tar, "folder")
    Traceback (most recent call last):
    tarfile.FilterError: it holds the name '../../outside', which leads out of its folder

    **Raises:** when called: `tarfile.FilterError`.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._bytes = 0

    def __call__(self, member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        shown = ascii(member.name)[:80]
        if member.issparse() or not (member.isreg() or member.isdir()):
            raise tarfile.FilterError(f"it holds {shown}, which is neither a file nor a folder")
        parts = member.name.split("/")
        if member.name.startswith(("/", "\\")) or ".." in parts or "\0" in member.name or ":" in parts[0]:
            raise tarfile.FilterError(f"it holds the name {shown}, which leads out of its folder")
        if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts):
            raise tarfile.FilterError(f"it holds the name {shown}..., which is longer than files can have")
        name = os.path.normpath(member.name)
        if member.isreg() and name in self._names:
            raise tarfile.FilterError(f"it holds {shown} twice")
        self._names.add(name)
        self._bytes += member.size
        if len(self._names) > MOST_FILES or self._bytes > MOST_BYTES:
            raise tarfile.FilterError(f"it holds more than {MOST_FILES:,} files or {MOST_BYTES >> 30} GiB")
        return tarfile.data_filter(member, path)


class _Metered:
    """A stream of which no more than `allowance` bytes are read. A header could otherwise state a name of many gigabytes."""

    def __init__(self, stream: io.BufferedIOBase):
        self._stream = stream
        self.allowance = _HEADERS

    def read(self, n: int) -> bytes:
        self._use(n)
        return self._stream.read(n)

    def seek(self, position: int) -> int:
        self._use(max(position - self._stream.tell(), 0))
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def _use(self, n: int) -> None:
        self.allowance -= n
        if self.allowance < 0:
            raise tarfile.FilterError("it has a header of more than a megabyte")
