"""Decoded images of one split, in one memory-mapped uint8 array."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from episodic.episodes.collate import Items


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a split holds, before anything is decoded. A data set lists it, and `build_store` makes the store.

    `items` are references that only the data set understands (a path, a member of a zip, a row of an array).
    `stamp` is a cheap fingerprint of the bytes behind them (names, sizes, times): a new stamp means a new cache entry.

    >>> files = ["cat/1.png", "dog/1.png"]
    >>> listing = Listing(items=files, labels=[0, 1], class_names=["cat", "dog"], item_names=files, stamp="1")
    >>> len(listing.items)
    2
    """

    items: Sequence[object]
    labels: Sequence[int]
    class_names: Sequence[str]
    item_names: Sequence[str]
    stamp: str
    super_classes: Sequence[int] | None = None
    super_class_names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ImageStore:
    """The images of one split, with their labels and names. All images are decoded into one array, and episodes are indices
    into it.

    **Attributes:**

    - `images`: uint8 `[N, C, H, W]`, memory-mapped on the CPU or resident on a device.
    - `labels`: int64 `[N]`, the index into `class_names`.
    - `class_names`: one name a class.
    - `item_names`: one name an image, unique in the split (a file's path below the data set's folder).
    - `super_classes`: int64 `[n_classes]` or None, the index into `super_class_names` (alphabets, categories, scripts).
    - `dataset`, `split`, `split_name`: e.g. `"miniimagenet"`, `"val"`, `"ravi"`.
    - `n_base`: how many classes, from the first, are training classes; 0 outside incremental tasks.
    - `skipped`: `(item name, reason)` of images left out because they could not be decoded.

    It is a map-style data set of `(uint8 image, label)` as well, so it works in a plain `DataLoader`.

    >>> store = ImageStore(
    ...     images=torch.zeros(6, 3, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 0, 0, 1, 1, 1]), class_names=("cat", "dog"),
    ...     item_names=tuple("abcdef"), super_classes=None, super_class_names=(), dataset="pets", split="val", split_name="ours",
    ... )
    >>> store
    ImageStore(pets val: 6 images of 2 classes)
    >>> store.gather(torch.tensor([[0, 5]])).shape
    torch.Size([1, 2, 3, 8, 8])
    """

    images: UInt8[Tensor, "item channels height width"]
    labels: Int64[Tensor, " item"]
    class_names: tuple[str, ...]
    item_names: tuple[str, ...]
    super_classes: Int64[Tensor, " n_classes"] | None
    super_class_names: tuple[str, ...]
    dataset: str
    split: str
    split_name: str
    skipped: tuple[tuple[str, str], ...] = ()
    n_base: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        classes = len(self.class_names)
        base = f", {self.n_base} of them base classes" if self.n_base else ""
        return f"ImageStore({self.dataset} {self.split}: {len(self):,} images of {classes:,} classes{base})"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> Items:
        """The items at `indices`, gathered at once. A `DataLoader` calls it in place of `__getitem__` for each item."""
        index = torch.from_numpy(np.array(indices))  # torch reads lists of integers six times slower
        return Items(self.gather(index), self.labels.index_select(0, index))

    @property
    def class_hash(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the sorted class names: equal exactly for equal class lists."""
        return digest(*sorted(self.class_names))

    def gather(self, index: Int64[Tensor, "*axes"]) -> UInt8[Tensor, "*axes channels height width"]:
        """Images at `index` (any shape), on the store's device."""
        flat = self.images.index_select(0, index.reshape(-1).to(self.images.device))
        return flat.reshape(*index.shape, *self.images.shape[1:])

    def to(self, device: torch.device | str) -> ImageStore:
        """The same store with its images on `device`, so that a batch of episodes costs no copy from the host."""
        return dataclasses.replace(self, images=self.images.to(device))


def digest(*parts: str) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the parts, joined by zero bytes."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
