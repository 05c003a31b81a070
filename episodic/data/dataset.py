"""What every data set of this package is: a source of `ImageStore`s, one a split."""

from __future__ import annotations

import abc
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from episodic.data.store import ImageFile, ImageStore, Listing, build_store, cache_dir

SPLITS = ("train", "val", "test")
PART = 2**16  # bytes that are read at once; most pictures of a few-shot data set are smaller
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where Pillow finds how a JPEG lies


class AbstractDataset(abc.ABC):
    """Images in class-disjoint splits.

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
    corrupt: str

    @abc.abstractmethod
    def listing(self, split: str) -> Listing:
        """What `split` holds.

        **Raises:** `FileNotFoundError` with the layout that was expected where the split is not on disk.
        """

    @abc.abstractmethod
    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        """Assign all rows of `out [N, C, H, W]` (uint8), and return `{item: reason}` for images that cannot be read."""

    def store(self, split: str) -> ImageStore:
        """The images of `split`, from the cache or rendered into it.

        **Raises:** `ValueError` for a split that does not exist or unreadable images; `FileNotFoundError` where the data
        is not on disk.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return build_store(
            self.listing(split),
            self.render,
            shape=(self.channels, self.image_size, self.image_size),
            key=self.key,
            dataset=self.name,
            split=split,
            split_name=self.split_name,
            corrupt=self.corrupt,
        )

    @property
    def key(self) -> str:
        """All public settings, as they decide the bytes of a store; what does not decide them is kept underscored."""
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "corrupt"}
        return f"{type(self).__name__} {sorted(settings.items())}"


def data_dir(given: str | os.PathLike | None = None) -> Path:
    """Where data sets lie: `given`, else `$EPISODIC_DATA`, else `data` in the user's cache folder."""
    return Path(given or os.environ.get("EPISODIC_DATA") or cache_dir() / "data").expanduser()


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


def decode_image(source, *, channels: int, size: int, resize: str = "squash") -> np.ndarray:
    """An image file (path or file object) as uint8 `[channels, size, size]`.

    EXIF rotation is applied; grey, CMYK, alpha and 16-bit images are converted. `resize="squash"` scales both sides to
    `size` (as miniImageNet's makers did); `"crop"` scales the short side and cuts the centre. Bilinear with antialiasing.

    **Raises:** `OSError`, `ValueError` or `SyntaxError` from Pillow where the bytes are no whole image.
    """
    with _opened(source) as opened:
        image = opened
        if image.size != (size, size):
            image.draft("RGB", (size, size))  # lets the JPEG decoder skip detail that the resize would drop
        if image.format != "JPEG" or image.info.keys() & ORIENTED:
            ImageOps.exif_transpose(image, in_place=True)  # without a copy of the images that lie as they should
        if image.mode.startswith("I"):  # 16-bit: Pillow's own conversion would clip at 255
            image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        mode = "L" if channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        if image.size != (size, size):
            method = Image.Resampling.BILINEAR
            image = (
                ImageOps.fit(image, (size, size), method) if resize == "crop" else image.resize((size, size), method)
            )
        array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _opened(source) -> Image.Image:
    """The image of a path or file object. A path is read in four calls to the system, where Pillow makes a dozen: at each of them
    a thread gives up the interpreter and queues for it anew, which cost more than the decoding.
    """
    if isinstance(source, str | os.PathLike):
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            parts = [os.read(descriptor, PART)]
            while parts[-1]:
                parts.append(os.read(descriptor, PART))
        finally:
            os.close(descriptor)
        if not parts[0]:
            raise UnidentifiedImageError("the file is empty")
        source = io.BytesIO(b"".join(parts))
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        raise UnidentifiedImageError("cannot identify image file") from None  # it would name a buffer
