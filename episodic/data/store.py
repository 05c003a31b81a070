"""Decoded images of one split, in one memory-mapped uint8 array."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
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
    - `item_names`: one name an image, unique in the split (a file's path below the data set's folder); `()` where they have none.
    - `super_classes`: int64 `[n_classes]` or None, the index into `super_class_names` (alphabets, categories, scripts).
    - `dataset`, `split`, `split_name`: e.g. `"miniimagenet"`, `"val"`, `"ravi"`.
    - `n_base`: how many classes, from the first, are training classes; 0 outside incremental tasks.
    - `skipped`: `(item name, reason)` of images left out because they could not be decoded.

    **Raises:** `TypeError` or `ValueError` where these do not fit together, such as images on the scale 0..1 or a label without a
    class. The images themselves are not read.

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

    def __post_init__(self):
        _check_tensor("images", self.images, torch.uint8, "[N, C, H, W] on the scale 0..255", 4)
        _check_tensor("labels", self.labels, torch.int64, "[N]", 1)
        _check_names("class_names", self.class_names)
        _check_names("item_names", self.item_names)
        if len(self.labels) != len(self.images):
            raise ValueError(f"there must be a label for each of {len(self.images):,} images, got {len(self.labels):,}")
        _check_indices("labels", self.labels, "class_names", self.class_names)
        if len(self.item_names) not in (0, len(self)):
            raise ValueError(
                f"item_names must have a name for each of {len(self):,} images, got {len(self.item_names):,}"
            )
        if self.super_classes is not None:
            _check_tensor("super_classes", self.super_classes, torch.int64, "[n_classes]", 1)
            if len(self.super_classes) != len(self.class_names):
                raise ValueError(
                    f"super_classes must have one for each of {len(self.class_names):,} classes, got {len(self.super_classes):,}"
                )
            _check_indices("super_classes", self.super_classes, "super_class_names", self.super_class_names)
        if not 0 <= self.n_base <= len(self.class_names):
            raise ValueError(f"n_base must be one of 0..{len(self.class_names)} classes, got {self.n_base}")

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


def _check_tensor(name: str, value: object, dtype: torch.dtype, form: str, axes: int) -> None:
    want = f"{name} must be a tensor of {str(dtype).removeprefix('torch.')} {form}"
    if not isinstance(value, Tensor):
        raise TypeError(f"{want}, got {type(value).__name__}")
    if value.dtype != dtype or value.ndim != axes:
        scaled = value.is_floating_point() and name == "images"
        remedy = "; from the scale 0..1, (255 * images).round().to(torch.uint8) makes it" if scaled else ""
        raise ValueError(f"{want}, got {str(value.dtype).removeprefix('torch.')} {list(value.shape)}{remedy}")


def _check_indices(name: str, values: Tensor, of: str, names: Sequence[str]) -> None:
    if len(values) and not (values.min() >= 0 and values.max() < len(names)):
        wrong = int(values[(values < 0) | (values >= len(names))][0])
        raise ValueError(f"{name} must be indices into the {len(names):,} {of}, 0..{len(names) - 1}, got {wrong}")


def _check_names(name: str, names: object) -> None:
    if not isinstance(names, tuple) or not all(isinstance(one, str) for one in names):
        raise TypeError(
            f"{name} must be a tuple of strings, got {names if isinstance(names, str) else type(names).__name__}"
        )
    if len(set(names)) < len(names):
        twice = next(one for one, count in Counter(names).items() if count > 1)
        raise ValueError(f"{name} must differ, got {twice!r} more than once")
