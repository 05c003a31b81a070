"""Pictures: files, PIL images and arrays, all made uint8 `[C, H, W]` of one size."""

from __future__ import annotations

import dataclasses
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from episodic.data.cache import decode_parallel
from episodic.data.dataset import AbstractDataset
from episodic.data.sources.tables import IMAGENET_MEAN, IMAGENET_STD, images_below
from episodic.data.sources.tables import class_folders as folders_in
from episodic.episodes.arguments import choice, instance, integer, numbers, refuse

PART = 2**16  # bytes that are read at once; most pictures of a few-shot data set are smaller
MOST_PARTS = 2**13  # of a file, 512 MiB
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where Pillow finds the orientation of a JPEG
# What the suffixes of pictures stand for. The others that Pillow reads are rarely tested, and for EPS it starts another program.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF", "HEIF")
Channels = Literal[1, 3]
Resize = Literal["crop", "squash"]
NONE = "there are no pictures: the list is empty"
LAYOUT = "expected <folder>/<class name>/<picture>"


@dataclasses.dataclass(frozen=True)
class PictureForm:
    """What a model expects of pictures: their size, colors and scale. Pictures of any kind are brought into this form.

    - `channels`: 3 for color (default), 1 for gray. `size`: side in pixels, 224 by default.
    - `mean`, `std`: one number a channel on the scale 0..1; None (default) for ImageNet's, for one channel their averages.
    - `resize`: `"crop"` (default) scales the short side and cuts the center, `"squash"` scales both sides.

    **Raises:** `ValueError` for other values.

    >>> PictureForm(channels=1, size=28)
    PictureForm(channels=1, size=28, mean=(0.449,), std=(0.226,), resize='crop')
    """

    channels: Channels = 3
    size: int = 224
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    resize: Resize = "crop"

    def __post_init__(self):
        checked = _form(self.channels, self.size, self.resize)
        for name, color, gray, above in (("mean", IMAGENET_MEAN, 0.449, -math.inf), ("std", IMAGENET_STD, 0.226, 0)):
            given = getattr(self, name)
            usual = color if checked["channels"] == 3 else (gray,)
            checked[name] = usual if given is None else numbers(name, given, above=above)
            if len(checked[name]) != checked["channels"]:
                refuse(name, f"a number for each channel, {checked['channels']} in all", list(checked[name]))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def of(dataset: AbstractDataset) -> PictureForm:
        """That of the images of `dataset`."""
        resize = getattr(dataset, "resize", "squash")
        return PictureForm(dataset.channels, dataset.image_size, dataset.mean, dataset.std, resize)


def _form(channels: Channels, size: int, resize: Resize) -> dict[str, Any]:
    """The three settings by which pictures are decoded."""
    return {
        "channels": choice("channels", channels, Channels),
        "size": integer("size", size, at_least=1),
        "resize": choice("resize", resize, Resize),
    }


def is_inverted(form: PictureForm, mean: float) -> bool:
    """Whether gray pictures of that `mean`, on the scale 0..1, are clearly dark where the model's own are bright, or vice versa.

    >>> is_inverted(PictureForm(channels=1, mean=[0.08], std=[0.3]), mean=0.9)
    True
    """
    known = form.mean[0]
    return form.channels == 1 and abs(1 - mean - known) + 0.25 < abs(mean - known)


def class_folders(path: str | os.PathLike) -> dict[str, list[Path]]:
    """The pictures of each class in a folder of class folders: class name -> paths, both sorted. Hidden files are ignored, and
    so are files whose suffix is not that of a picture.

    **Raises:** `FileNotFoundError` for no such folder; `ValueError` where it has pictures outside class folders, no class
    folders, or an empty one.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; {LAYOUT}")
    folders = folders_in(folder)
    classes = {name: images_below(below) for name, below in folders.items()}
    inside = {file for files in classes.values() for file in files}
    if loose := [file for file in images_below(folder) if file not in inside]:
        raise ValueError(f"{folder} has pictures that are in no class, e.g. {loose[0].name}; {LAYOUT}")
    if not classes:
        raise ValueError(f"{folder} has no class folders; {LAYOUT}")
    if empty := [name for name, files in classes.items() if not files]:
        raise ValueError(f"{folder / empty[0]} has no pictures: add some, or take the folder away")
    return classes


def pictures_in(path: str | os.PathLike) -> list[Path]:
    """The pictures in a folder and the folders in it, sorted. If `path` is a file, it is the only picture, whatever its suffix.

    **Raises:** `FileNotFoundError` where there is nothing; `ValueError` for a folder without pictures.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder or picture {place}")
    files = images_below(place)
    if not files:
        raise ValueError(f"{place} has no pictures")
    return files


def read_pictures(
    paths: Sequence[str | os.PathLike], channels: Channels, size: int, *, resize: Resize = "squash"
) -> tuple[UInt8[np.ndarray, "picture channels height width"], list[Path], dict[Path, str]]:
    """Reads pictures in parallel. It returns a uint8 array `[n, C, H, W]`, the paths of its pictures, and for each path that could
    not be read the reason.
    """
    paths = [Path(path).expanduser() for path in paths]
    out = np.empty((len(paths), channels, size, size), dtype=np.uint8)
    failed = decode_parallel(
        paths, lambda path: _of_file(path, channels=channels, size=size, resize=resize), out, title="pictures"
    )
    kept = [i for i in range(len(paths)) if i not in failed]
    return out[kept], [paths[i] for i in kept], {paths[i]: reason for i, reason in sorted(failed.items())}


def as_pictures(items: Any, form: PictureForm) -> UInt8[Tensor, "picture channels height width"]:
    """Pictures of any kind, in the form that a model expects. The result is one uint8 tensor.

    `items` is a list of paths, PIL images and uint8 arrays `[H, W]` or `[H, W, C]` (1, 3 or 4 channels), such arrays stacked, or
    a uint8 tensor `[n, C, H, W]` that has the form already, as `ImageStore.images`.

    **Raises:** `ValueError` for other types or shapes, and for pictures that cannot be read, naming them.

    >>> as_pictures([np.zeros((60, 40, 3), np.uint8), np.zeros((30, 30), np.uint8)], PictureForm(size=32)).shape
    torch.Size([2, 3, 32, 32])
    """
    instance("form", form, PictureForm)
    if isinstance(items, Tensor):
        shape = (form.channels, form.size, form.size)
        if items.dtype != torch.uint8 or items.shape[1:] != shape:
            raise ValueError(
                f"pictures in a tensor must be uint8 [n, {', '.join(map(str, shape))}], got {_kind(items)}"
            )
        if not len(items):
            raise ValueError(NONE)
        return items.cpu()
    one = isinstance(items, np.ndarray) and items.ndim == 3 and items.shape[-1] in (1, 3, 4)
    if one or isinstance(items, str | os.PathLike | Image.Image) or not hasattr(items, "__len__"):
        raise ValueError(f"pictures must be a list, got one {type(items).__name__}: put it into a list")
    if not len(items):
        raise ValueError(NONE)
    out = np.empty((len(items), form.channels, form.size, form.size), dtype=np.uint8)
    settings = {"channels": form.channels, "size": form.size, "resize": form.resize}
    items = list(items)
    failed = decode_parallel(items, lambda item: _decoded(item, **settings), out, title="pictures")
    if failed:
        shown = "; ".join(f"{_name(items[i], i)}: {reason}" for i, reason in sorted(failed.items())[:3])
        raise ValueError(f"{len(failed)} of {len(items)} pictures cannot be read: {shown}")
    return torch.from_numpy(out)


def _decoded(item: Any, *, channels: int, size: int, resize: str) -> np.ndarray:
    if isinstance(item, str | os.PathLike):
        return _of_file(Path(item).expanduser(), channels=channels, size=size, resize=resize)
    if isinstance(item, np.ndarray):
        if item.shape == (size, size, channels) and item.dtype == np.uint8:
            return item.transpose(2, 0, 1)
        item = _image(item)
    if not isinstance(item, Image.Image):
        raise ValueError(f"neither a path, a PIL image nor a uint8 array, but {type(item).__name__}")
    # Encode it without loss: files, images and arrays all go through `decode_image`.
    item = ImageOps.exif_transpose(item)
    encoded = io.BytesIO()
    (item.convert("RGB") if item.mode in ("CMYK", "YCbCr", "LAB", "HSV") else item).save(
        encoded, "PNG", compress_level=0
    )
    return decode_image(encoded, channels=channels, size=size, resize=resize)


def _image(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise ValueError(f"an array must be uint8 on the scale 0..255, got {array.dtype}")
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ValueError(f"an array must be [H, W] or [H, W, C] with 1, 3 or 4 channels, got {_kind(array)}")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _of_file(path: Path, *, channels: int, size: int, resize: str) -> np.ndarray:
    try:
        return decode_image(path, channels=channels, size=size, resize=resize)
    except UnidentifiedImageError as error:
        if path.suffix.lower() in (".heic", ".heif"):
            raise ValueError("Pillow cannot read HEIC: convert it to JPEG") from None
        raise ValueError("the file is empty" if "empty" in str(error) else "it is not an image") from None
    except OSError as error:  # its own text repeats the path
        raise ValueError(error.strerror or str(error)) from None


def _name(item: Any, index: int) -> str:
    return str(item) if isinstance(item, str | os.PathLike) else f"picture {index}"


def _kind(array: Tensor | np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def decode_image(source, *, channels: Channels, size: int, resize: Resize = "squash") -> np.ndarray:
    """Decodes an image file, a path or a file object. The result is uint8 `[channels, size, size]`.

    EXIF rotation is applied; gray, CMYK, alpha and 16-bit images are converted, and floating-point ones are refused.
    `resize="squash"` scales both sides to `size` (as miniImageNet's makers did); `"crop"` scales the short side and cuts the
    center. Bilinear with antialiasing.

    **Raises:** `OSError`, `ValueError` or `SyntaxError` from Pillow where the bytes are no whole image.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (60, 40), "white").save(file, "PNG")
    >>> decode_image(file, channels=3, size=32).shape
    (3, 32, 32)
    """
    channels, size, resize = _form(channels, size, resize).values()
    with _opened(source) as opened:
        image = opened
        if image.size != (size, size):
            image.draft("RGB", (size, size))  # lets the JPEG decoder skip detail that the resize would drop
        if image.format != "JPEG" or image.info.keys() & ORIENTED:
            ImageOps.exif_transpose(image, in_place=True)  # in place: upright images are not copied
        if image.mode.startswith("I"):  # 16-bit: Pillow's own conversion would clip at 255
            image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
        if image.mode == "F":
            raise ValueError(
                "its values are floating-point numbers, whose scale is not known: save it with 8 or 16 bits"
            )
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
    """The image of a path or file object. A path is read in four system calls, where Pillow makes a dozen: at each call a thread
    releases the interpreter lock and waits for it again, which took longer than the decoding.
    """
    if isinstance(source, str | os.PathLike):
        # Without O_NONBLOCK a pipe among the pictures would be waited for.
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            parts = [os.read(descriptor, PART)]
            while parts[-1] and len(parts) <= MOST_PARTS:
                parts.append(os.read(descriptor, PART))
        finally:
            os.close(descriptor)
        if not parts[0]:
            raise UnidentifiedImageError("the file is empty")
        if len(parts) > MOST_PARTS:  # such as a link to a device that never ends
            raise ValueError(f"the file has more than {PART * MOST_PARTS >> 20} MiB")
        source = io.BytesIO(b"".join(parts))
    if not hasattr(source, "read"):
        refuse("picture", "a path or an open file", source)
    Image.init()  # returns at once after the first call
    try:
        return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise UnidentifiedImageError("cannot identify image file") from None  # it would name a buffer
