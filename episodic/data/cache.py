"""From files to an `ImageStore`: decoded once, on all cores, into a cache that heals itself."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import torch
from tqdm import tqdm

from episodic.data.store import ImageStore, Listing, digest

CHUNK = 64  # images that a thread decodes before it hands them on
FORMAT = 1  # part of every cache key: raise it when the bytes written here change their meaning


def cache_dir() -> Path:
    """The folder of the cache: `$EPISODIC_CACHE`, else `episodic` in the user's cache folder."""
    if override := os.environ.get("EPISODIC_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "episodic"


def files_stamp(paths: Sequence[Path]) -> str:
    """A fingerprint of files by name, size and time of change, without reading them. Missing files are left out."""
    marks = []
    for path in map(os.fspath, paths):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)
            marks.append(f"{os.path.basename(path)} {status.st_size} {status.st_mtime_ns}")
    return digest(*marks)


class ImageFile:
    """A new `.npy` file of uint8 images `[N, C, H, W]`. Whole images are assigned to its rows as to those of an array:
    `out[row] = image`, `out[start:stop] = images`, `out[rows] = images`.

    The file is written, not mapped into memory: a full disk then raises an `OSError` instead of killing the process.

    >>> with tempfile.TemporaryFile() as file:
    ...     out = ImageFile(file, shape=(5, 3, 8, 8))
    ...     out[1:3] = np.full((2, 3, 8, 8), 255)
    ...     len(out)
    5
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...]):
        self.shape = shape
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._start = file.tell()
        file.truncate(self._start + math.prod(shape))  # rows that are not assigned are 0
        self._file, self._lock = file, threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, rows: int | slice | np.ndarray | Sequence[int], images: np.ndarray) -> None:
        if isinstance(rows, tuple):
            raise TypeError("images are assigned whole: out[row] = image [C, H, W]")
        index = np.atleast_1d(np.arange(len(self))[rows])
        images = np.broadcast_to(images, (len(index), *self.shape[1:]))
        borders = np.flatnonzero(np.diff(index) != 1) + 1
        for run, part in zip(np.split(index, borders), np.split(images, borders), strict=True):
            ready = np.ascontiguousarray(part, dtype=np.uint8)
            with self._lock:
                self._file.seek(self._start + int(run[0]) * math.prod(self.shape[1:]))
                self._file.write(ready)


def decode_parallel(
    items: Sequence[object],
    decode: Callable[[object], np.ndarray],
    out: ImageFile | np.ndarray,
    *,
    title: str,
) -> dict[int, str]:
    """Fills `out[i]` with `decode(items[i])` on all cores, under a progress bar. It returns `{i: reason}` for the items whose
    decoding raised; their rows in `out` are undefined.

    >>> out = np.empty((3, 1, 2, 2), np.uint8)
    >>> decode_parallel([10, 20, "x"], lambda item: np.full((1, 2, 2), int(item)), out, title="numbers")
    {2: "invalid literal for int() with base 10: 'x'"}
    """
    failed: dict[int, str] = {}

    def work(rows: range) -> int:
        channels, *size = out.shape[1:]
        images = np.moveaxis(np.empty((len(rows), *size, channels), np.uint8), -1, 1)  # as decoders lay them
        for image, i in zip(images, rows, strict=True):
            try:
                image[:] = decode(items[i])
            except Exception as error:  # broken bytes make Pillow raise nearly anything; each is reported, none hidden
                failed[i] = str(error) or type(error).__name__
        out[rows.start : rows.stop] = images
        return len(rows)

    chunks = [range(i, min(i + CHUNK, len(items))) for i in range(0, len(items), CHUNK)]
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(items), desc=title, unit="img", disable=None, leave=False) as bar,
    ):
        for done in pool.map(work, chunks):
            bar.update(done)
    return failed


def build_store(
    listing: Listing,
    render: Callable[[Listing, ImageFile], dict[int, str]],
    *,
    shape: tuple[int, int, int],
    key: str,
    dataset: str,
    split: str,
    split_name: str,
    corrupt: str = "error",
) -> ImageStore:
    """The store of one split. It is read from the cache, or rendered into it first.

    **Arguments:**

    - `render`: fills the rows of an `ImageFile` for a listing and returns `{item: reason}` for what it could not read.
    - `shape`: `(C, H, W)` of every image.
    - `key`: everything else that decides the bytes (size, resampling, rotations, ...).
    - `corrupt`: `"error"` refuses a split with unreadable images, naming them; `"skip"` leaves them out and lists them
      in `ImageStore.skipped`.

    The entry is written beside its place and renamed, so a build that dies leaves nothing half made.

    **Raises:** `ValueError` when images are unreadable and `corrupt="error"`, or none is left.
    """
    if corrupt not in ("error", "skip"):
        raise ValueError(f"corrupt must be 'error' or 'skip', got {corrupt!r}")
    if len(listing.items) == 0:
        raise ValueError(f"{dataset} {split}: no images found")
    if len(set(listing.item_names)) < len(listing.item_names):
        twice = next(name for name, n in Counter(listing.item_names).items() if n > 1)
        raise ValueError(f"{dataset} {split}: {twice} is listed twice, so it could be both support and query")
    fingerprint = digest(str(FORMAT), listing.stamp, key, str(shape), *listing.item_names)
    folder = cache_dir() / "stores" / f"{dataset}-{split_name}-{split}-{fingerprint}"
    if not (folder / "store.json").exists():
        _render_into(folder, listing, render, shape, f"{dataset} {split}", corrupt)
    meta = json.loads((folder / "store.json").read_text())
    if meta["skipped"] and corrupt == "error":
        raise _unreadable(f"{dataset} {split}", meta["skipped"], len(listing.items))
    # Copy-on-write mapping: pages stay shared between processes, and torch accepts it as writable.
    images = np.load(folder / "images.npy", mmap_mode="c")
    dropped = dict(meta["skipped"])
    kept = [i for i, name in enumerate(listing.item_names) if name not in dropped]
    return ImageStore(
        images=torch.from_numpy(images),
        labels=torch.as_tensor(np.asarray(listing.labels, dtype=np.int64)[kept]),
        class_names=tuple(listing.class_names),
        item_names=tuple(listing.item_names[i] for i in kept),
        super_classes=None if listing.super_classes is None else torch.as_tensor(listing.super_classes).long(),
        super_class_names=tuple(listing.super_class_names),
        dataset=dataset,
        split=split,
        split_name=split_name,
        skipped=tuple(dropped.items()),
    )


def _render_into(folder, listing, render, shape, title, corrupt) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        with (building / "images.npy").open("wb") as file:
            failed = render(listing, ImageFile(file, (len(listing.items), *shape)))
            file.flush()
            os.fsync(file.fileno())
        skipped = [(listing.item_names[i], reason) for i, reason in sorted(failed.items())]
        if failed and corrupt == "error":
            raise _unreadable(title, skipped, len(listing.items))
        if failed:
            keep = np.setdiff1d(np.arange(len(listing.items)), list(failed))
            if len(keep) == 0:
                raise ValueError(f"{title}: none of the {len(listing.items)} images can be read")
            np.save(building / "kept.npy", np.load(building / "images.npy", mmap_mode="r")[keep])
            os.replace(building / "kept.npy", building / "images.npy")
        (building / "store.json").write_text(json.dumps({"skipped": skipped}))
        # Another process may have finished the same entry meanwhile: its bytes are the same, so either may stay.
        with contextlib.suppress(OSError):
            os.rename(building, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        size = len(listing.items) * math.prod(shape)
        raise OSError(
            error.errno,
            f"{title}: {error.strerror}: {folder.parent} has no room for {size:,} bytes of decoded images; "
            "set EPISODIC_CACHE to a folder that has",
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _unreadable(title: str, skipped: Sequence[Sequence[str]], count: int) -> ValueError:
    lines = [f"  {name}: {reason}" for name, reason in skipped[:5]] + ["  ..."] * (len(skipped) > 5)
    return ValueError(
        f"{title}: {len(skipped)} of {count} images cannot be read:\n"
        + "\n".join(lines)
        + "\nReplace them, or leave them out with task.dataset.corrupt=skip."
    )
