"""The check of the image cache: is it as it was written, and are its images still those of the data set's files?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from episodic.data.cache import ImageFile, entry_folder
from episodic.data.dataset import SPLITS, AbstractDataset
from episodic.data.entry import DamagedEntry, open_entry
from episodic.data.store import Listing
from episodic.doctor.finding import Finding, first_line, found_or_ok

CHUNK = 1024  # images that are compared at once


def check_cache(dataset: AbstractDataset, sources: bool) -> Iterator[Finding]:
    """Find damage in the cached images of each split, and mend it. With `sources`, also find images that are no longer those of
    their files.

    The cache knows a file by its size and time of change. So it does not notice a file that was changed and kept both.
    """
    for split in SPLITS:
        try:
            listing = dataset.listing(split)
        except (FileNotFoundError, ValueError):
            continue  # told where the splits are read
        place = dataset.entry(split)
        folder = entry_folder(listing, **place)
        try:
            images, skipped = open_entry(folder, listing.item_names, place["shape"], verify=True)
        except FileNotFoundError:
            yield Finding("cache", "ok", f"{split}: not in the cache yet, so its images are decoded now")
        except DamagedEntry as error:
            yield _mended(dataset, split, error)
        else:
            size = f"{images.nbytes / 1e6:,.1f} MB"
            yield Finding("cache", "ok", f"{split}: the checksums of all {size} of its images in the cache are right")
            if sources:
                yield _compared(dataset, listing, split, folder, images, skipped)


def _mended(dataset: AbstractDataset, split: str, damage: DamagedEntry) -> Finding:
    try:
        dataset.store(split, verify=True)
    except (OSError, ValueError) as error:
        text = f"{split}: the cache is damaged ({damage}) and cannot be written anew: {first_line(error)}"
        return Finding("cache", "error", text)
    return Finding("cache", "warning", f"{split}: the cache was damaged ({damage}); its images have been decoded anew")


def _compared(
    dataset: AbstractDataset, listing: Listing, split: str, folder: Path, images: np.ndarray, skipped: dict[str, str]
) -> Finding:
    try:
        changed = changed_images(dataset, listing, folder.parent, images, skipped)
    except (OSError, ValueError) as error:
        text = f"{split}: the cache cannot be compared with the files: {first_line(error)}"
        return Finding("cache", "warning", text)
    items = [
        {"split": split, "class": listing.class_names[listing.labels[i]], "image": listing.item_names[i], "now": now}
        for i, now in changed.items()
    ]
    text = f"{split}: {len(items):,} images in the cache are not those of their files now, which kept size and time"
    remedy = f"remove {folder}, and the next command decodes them anew"
    return found_or_ok("cache", "error", f"{text}: {remedy}", f"{split}: the cache has the images of its files", items)


def changed_images(
    dataset: AbstractDataset, listing: Listing, room: Path, images: np.ndarray, skipped: dict[str, str]
) -> dict[int, str]:
    """The items of a listing whose images in the cache are not those that their files give now: `{item: what they give}`. All are
    decoded again, into a file that has no name; it takes as long as the first time.

    **Arguments:** `room`: a folder with room for that file. `images`, `skipped`: the entry of the cache, as of `open_entry`.

    **Raises:** `OSError` where there is no room; what `render` raises.
    """
    cached = [i for i, name in enumerate(listing.item_names) if name not in skipped]
    shape = (len(listing.items), *images.shape[1:])
    with tempfile.TemporaryFile(dir=room) as file:
        out = ImageFile(file, shape)
        failed = dataset.render(listing, out)
        file.flush()
        now = np.memmap(file, np.uint8, "r", out.start, shape)
        changed = {i: f"cannot be read: {failed[i]}" for i in cached if i in failed}
        for start in range(0, len(cached), CHUNK):
            rows = np.array(cached[start : start + CHUNK])
            old, new = images[start : start + CHUNK], now[rows]
            for k in np.flatnonzero((old != new).any(axis=(1, 2, 3))):
                difference = np.abs(old[k].astype(np.int16) - new[k]).max()
                changed.setdefault(int(rows[k]), f"differs by up to {difference} of 255")
    return dict(sorted(changed.items()))
