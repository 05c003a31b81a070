"""From files to an `ImageStore`: decoded once, on all cores, into a cache that heals itself."""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from episodic.data.entry import IMAGES, DamagedEntry, npy_header, open_entry, seal_entry
from episodic.data.folders import new_folder, put_in_place
from episodic.data.store import ImageStore, Listing, digest

CHUNK = 64  # images that a thread decodes before it hands them on
ATTEMPTS = 3  # to open an entry: another process that found the same damage may move the first new one away
FORMAT = 2  # part of every cache key: raise it when the bytes written here change their meaning


def cache_dir() -> Path:
    """The folder of the cache: `$EPISODIC_CACHE`, else `episodic` in the user's cache folder.

    **Raises:** `OSError` where the user has no home folder.
    """
    if override := os.environ.get("EPISODIC_CACHE"):
        return Path(override)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "episodic"
    except RuntimeError:  # as in containers
        raise OSError(
            "there is no home folder for the cache: set EPISODIC_CACHE to a folder that can be written"
        ) from None


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

    **Raises:** `TypeError` for images of another type than uint8, such as numbers on the scale 0..1.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     out = ImageFile(file, shape=(5, 3, 8, 8))
    ...     out[1:3] = np.full((2, 3, 8, 8), 255, np.uint8)
    ...     len(out)
    5
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...]):
        self.shape = shape
        self.start = file.write(npy_header(shape))
        file.truncate(self.start + math.prod(shape))  # rows that are not assigned are 0
        self._file, self._lock = file, threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, rows: int | slice | np.ndarray | Sequence[int], images: np.ndarray) -> None:
        if isinstance(rows, tuple):
            raise TypeError("images are assigned whole: out[row] = image [C, H, W]")
        images = _bytes_only(images)
        index = np.atleast_1d(np.arange(len(self))[rows])
        images = np.broadcast_to(images, (len(index), *self.shape[1:]))
        borders = np.flatnonzero(np.diff(index) != 1) + 1
        for run, part in zip(np.split(index, borders), np.split(images, borders), strict=True):
            ready = np.ascontiguousarray(part)
            with self._lock:
                self._file.seek(self.start + int(run[0]) * math.prod(self.shape[1:]))
                self._file.write(ready)


def decode_parallel(
    items: Sequence[object],
    decode: Callable[[object], np.ndarray],
    out: ImageFile | np.ndarray,
    *,
    title: str,
) -> dict[int, str]:
    """Fills `out[i]` with `decode(items[i])` on all cores, under a progress bar. It returns `{i: reason}` for the items whose
    decoding raised or gave another type than uint8; their rows in `out` are undefined.

    >>> out = np.empty((3, 1, 2, 2), np.uint8)
    >>> decode_parallel([10, 20, "x"], lambda item: np.full((1, 2, 2), int(item), np.uint8), out, title="numbers")
    {2: "invalid literal for int() with base 10: 'x'"}
    """
    failed: dict[int, str] = {}

    def work(rows: range) -> int:
        channels, *size = out.shape[1:]
        images = np.moveaxis(np.empty((len(rows), *size, channels), np.uint8), -1, 1)  # as decoders lay them
        for image, i in zip(images, rows, strict=True):
            try:
                image[:] = _bytes_only(decode(items[i]))
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
    verify: bool = False,
) -> ImageStore:
    """The store of one split. It is read from the cache, or rendered into it first. An entry of the cache that is damaged is
    rendered anew, and a line on the terminal says so.

    **Arguments:**

    - `render`: fills the rows of an `ImageFile` for a listing and returns `{item: reason}` for what it could not read.
    - `shape`: `(C, H, W)` of every image.
    - `key`: everything else that decides the bytes (size, resampling, rotations, ...).
    - `corrupt`: `"error"` refuses a split with unreadable images, naming them; `"skip"` leaves them out and lists them
      in `ImageStore.skipped`.
    - `verify` (default false): compare the checksums of all images, too. Sizes, header and table are checked at any time.

    The entry is written beside its place and renamed, so a build that dies leaves nothing half made.

    **Raises:** `ValueError` when images are unreadable and `corrupt="error"`, or none is left; `OSError` where the cache has no
    room or cannot be written.
    """
    if corrupt not in ("error", "skip"):
        raise ValueError(f"corrupt must be 'error' or 'skip', got {corrupt!r}")
    if len(listing.items) == 0:
        raise ValueError(f"{dataset} {split}: no images found")
    if len(set(listing.item_names)) < len(listing.item_names):
        twice = next(name for name, n in Counter(listing.item_names).items() if n > 1)
        raise ValueError(f"{dataset} {split}: {twice} is listed twice, so it could be both support and query")
    title = f"{dataset} {split}"
    folder = entry_folder(listing, shape=shape, key=key, dataset=dataset, split=split, split_name=split_name)
    opened = functools.partial(open_entry, folder, listing.item_names, shape, verify=verify)
    for attempt in range(ATTEMPTS):
        try:
            images, skipped = opened()
            break
        except (FileNotFoundError, DamagedEntry) as error:
            if attempt == ATTEMPTS - 1:
                raise
            if isinstance(error, DamagedEntry):
                print(f"Note: {title}: the cache is damaged ({error}); its images are decoded anew")
            _render_into(folder, listing, render, shape, title, corrupt, opened)
    if skipped and corrupt == "error":
        raise _unreadable(title, list(skipped.items()), len(listing.items))
    kept = [i for i, name in enumerate(listing.item_names) if name not in skipped]
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
        skipped=tuple(skipped.items()),
    )


def entry_folder(
    listing: Listing, *, shape: tuple[int, int, int], key: str, dataset: str, split: str, split_name: str
) -> Path:
    """Where the cache has the images of a listing. The arguments are those of `build_store`."""
    fingerprint = digest(str(FORMAT), listing.stamp, key, str(shape), *listing.item_names)
    return cache_dir() / "stores" / f"{dataset}-{split_name}-{split}-{fingerprint}"


def _render_into(folder, listing, render, shape, title, corrupt, opened) -> None:
    try:
        with new_folder(folder) as building:
            with (building / IMAGES).open("wb") as file:
                failed = render(listing, ImageFile(file, (len(listing.items), *shape)))
            skipped = [(listing.item_names[i], reason) for i, reason in sorted(failed.items())]
            if failed and corrupt == "error":
                raise _unreadable(title, skipped, len(listing.items))
            if failed:
                _leave_out(building, list(failed), title)
            seal_entry(building, skipped)
            put_in_place(building, folder, functools.partial(_is_whole, opened))
    except OSError as error:
        raise _cache_error(error, folder.parent, title, len(listing.items) * math.prod(shape)) from None


def _leave_out(building: Path, rows: Sequence[int], title: str) -> None:
    images = np.load(building / IMAGES, mmap_mode="r")
    keep = np.setdiff1d(np.arange(len(images)), rows)
    if len(keep) == 0:
        raise ValueError(f"{title}: none of the {len(images)} images can be read")
    with (building / "kept.npy").open("wb") as file:
        out = ImageFile(file, (len(keep), *images.shape[1:]))
        for start in range(0, len(keep), CHUNK):
            out[start : start + CHUNK] = images[keep[start : start + CHUNK]]
    os.replace(building / "kept.npy", building / IMAGES)


def _is_whole(opened: Callable[[], object]) -> bool:
    try:
        opened()
    except (FileNotFoundError, DamagedEntry):
        return False
    return True


def _cache_error(error: OSError, stores: Path, title: str, size: int) -> OSError:
    """What to say where the cache cannot be written. Errors that are not about the cache stay as they are."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        told = f"{stores} has no room for {size:,} bytes of decoded images; set EPISODIC_CACHE to a folder that has"
        return OSError(error.errno, f"{title}: {error.strerror}: {told}")
    place = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else None
    if place and (place.is_relative_to(stores) or stores.is_relative_to(place)):
        told = f"the cache cannot be written at {place}; set EPISODIC_CACHE to a folder that can"
        return OSError(error.errno, f"{title}: {error.strerror}: {told}")
    return error


def _bytes_only(images: Any) -> np.ndarray:
    if (dtype := getattr(images, "dtype", None)) != np.uint8:
        raise TypeError(f"images must be uint8 on the scale 0..255, got {dtype or type(images).__name__}")
    return images


def _unreadable(title: str, skipped: Sequence[Sequence[str]], count: int) -> ValueError:
    lines = [f"  {name}: {reason}" for name, reason in skipped[:5]] + ["  ..."] * (len(skipped) > 5)
    return ValueError(
        f"{title}: {len(skipped)} of {count} images cannot be read:\n"
        + "\n".join(lines)
        + "\nReplace them, or leave them out with task.dataset.corrupt=skip."
    )
