"""What every data set of this package is: a source of one `ImageStore` for each split."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from episodic.data.cache import ImageFile, build_store, cache_dir
from episodic.data.store import ImageStore, Listing
from episodic.episodes.arguments import file_path

SPLITS = ("train", "val", "test")
Corrupt = Literal["error", "skip"]


class AbstractDataset(abc.ABC):
    """Images in splits that have no class in common. Each data set is a subclass, and `store` gives the images of a split.

    A data set says what a split holds (`listing`, cheap: nothing is decoded) and how to turn that into one uint8 array
    (`render`); caching, corrupt files and the rest are here. Constructors take plain values and read nothing.

    **Attributes** that each one sets: `name`, `split_name` (which of the published splits), `channels`, `image_size`,
    `mean` and `std` (one number a channel, on the scale 0..1, subtracted and divided on the device), and `corrupt`
    (`"error"` or `"skip"`, see `build_store`).
    """

    name: str
    split_name: str
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    corrupt: Corrupt

    @abc.abstractmethod
    def listing(self, split: str) -> Listing:
        """What `split` holds.

        **Raises:** `FileNotFoundError` with the layout that was expected where the split is not on disk.
        """

    @abc.abstractmethod
    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        """Assign all rows of `out [N, C, H, W]` (uint8), and return `{item: reason}` for images that cannot be read."""

    def store(self, split: str, *, verify: bool = False) -> ImageStore:
        """The images of `split`, from the cache or rendered into it.

        **Arguments:** `verify` (default false): compare the checksums of all images in the cache first.

        **Raises:** `ValueError` for a split that does not exist or unreadable images; `FileNotFoundError` where the data
        is not on disk.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return build_store(
            self.listing(split),
            self.render,
            corrupt=self.corrupt,
            verify=verify,
            **self.entry(split),
        )

    def entry(self, split: str) -> dict[str, Any]:
        """What `entry_folder` takes beside a listing, to find `split` in the cache."""
        size = (self.channels, self.image_size, self.image_size)
        names = {"dataset": self.name, "split": split, "split_name": self.split_name}
        return {"shape": size, "key": self.key, **names}

    @property
    def key(self) -> str:
        """All public settings. They decide the bytes of a store; settings that do not have names with an underscore."""
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "corrupt"}
        return f"{type(self).__name__} {sorted(settings.items())}"


def data_dir(given: str | os.PathLike | None = None) -> Path:
    """The folder where data sets lie: `given`, else `$EPISODIC_DATA`, else `data` in the user's cache folder.

    **Raises:** `ValueError` for something else than a path.

    >>> data_dir("/data").name
    'data'
    """
    return file_path("root", given or os.environ.get("EPISODIC_DATA") or cache_dir() / "data")


def find_root(root: Path, candidates: Sequence[str], name: str, layout: str) -> Path:
    """The first of `root/<candidate>` that exists.

    **Raises:** `FileNotFoundError` that prints the `layout` wanted.
    """
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    tried = ", ".join(str(root / c) for c in candidates)
    raise FileNotFoundError(
        f"{name} was not found (looked for {tried}). Expected one of these layouts:\n{layout.rstrip()}\n"
        "Point data_dir=<dir> or the EPISODIC_DATA variable at the folder that holds it."
    )
