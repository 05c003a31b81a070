"""tieredImageNet: 608 classes of ImageNet, split by category, in the layouts that people have it in."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from episodic._learn2learn import learn2learn_module
from episodic.data.cache import ImageFile, decode_parallel, files_stamp
from episodic.data.dataset import AbstractDataset, Corrupt, data_dir
from episodic.data.image import decode_image
from episodic.data.sources.archives import ArchiveFilter
from episodic.data.sources.restricted_pickle import load_arrays
from episodic.data.sources.tables import (
    COLUMNS,
    Row,
    check_classes,
    class_folders,
    class_lists,
    find_image,
    folder_rows,
    make_listing,
    read_csv,
)
from episodic.data.store import Listing
from episodic.episodes.arguments import choice, flag, integer

FOLDERS = ("tieredimagenet", "tiered-imagenet", "tieredImageNet", "tiered_imagenet")
LAYOUT = """\
  {split}/<WordNet id>/<image>.jpg
  images/ with {split}.csv beside it (columns filename,label or class_name,image_name)
  {split}_labels.pkl with {split}_images_png.pkl or {split}_images.npz
in one of the folders {folders} below {root}.
Download it with task.dataset.download=true, or point data_dir=<dir> (or EPISODIC_DATA) at the folder above it."""


class TieredImageNet(AbstractDataset):
    """tieredImageNet: 351/97/160 classes of ImageNet, split by category, so that test classes have no close relatives in
    training. It has 448,695/124,261/206,209 images in color, of 20/6/8 categories.

    >>> dataset = TieredImageNet("/data")  # reads nothing yet; dataset.store("train") does
    >>> dataset.name, dataset.split_name, dataset.image_size
    ('tieredimagenet', 'ren', 84)

    Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", 2018, https://arxiv.org/abs/1803.00676.
    No category (`super_classes`) is in two splits. Classes are WordNet ids in every layout: in the pickles, which name
    them in words, they are looked up; other classes are refused. Images of other sizes are squashed to a square, as Ren et
    al. did (they with bicubic interpolation). `mean` and `std` are those of miniImageNet, as in MetaOptNet and others.

    Each split is looked for by itself: as folders of classes, as a CSV, as Ren's pickles. These are read without running
    code (`load_arrays`), and as a whole: the training images take 10 GB of memory once, while the store is built. A
    `{split}.csv` of lines `wnid,category` without a header is not needed: the categories come with this package.

    **Arguments:**

    - `root`: the folder that holds `tieredimagenet/` (or `tiered-imagenet/`, `tieredImageNet/`, `tiered_imagenet/`);
      default `$EPISODIC_DATA`, else a folder in the user's cache.
    - `image_size`: side of the images, in pixels. Default 84, as published.
    - `download`: fetch all splits through learn2learn (12 GB) where one is missing. Default False.
    - `corrupt`: `"error"` or `"skip"` images that cannot be read. Default `"error"`.

    **Raises:** by `store`: `FileNotFoundError` where a split, or an image that a CSV names, is not on disk; `ValueError`
    for wrong classes or a pickle that is damaged or holds more than arrays; `ImportError` to download without learn2learn.
    """

    name = "tieredimagenet"
    split_name = "ren"
    channels = 3
    mean = (120.39586422 / 255, 115.59361427 / 255, 104.54012653 / 255)
    std = (70.68188272 / 255, 68.27635443 / 255, 72.54505529 / 255)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        image_size: int = 84,
        download: bool = False,
        corrupt: Corrupt = "error",
    ):
        self._root = data_dir(root)
        self._download = flag("download", download)  # underscored: where the files come from does not decide the images
        self.image_size = integer("image_size", image_size, at_least=1)
        self.corrupt = choice("corrupt", corrupt, Corrupt)

    def listing(self, split: str) -> Listing:
        listing = self._find(split)
        if listing is None and self._download:
            _download(self._root)
            listing = self._find(split)
        if listing is None:
            where = {"folders": ", ".join(FOLDERS), "root": self._root}
            raise FileNotFoundError(
                f"tieredimagenet has no {split} split on disk. Expected one of\n" + LAYOUT.format(split=split, **where)
            )
        return listing

    def _find(self, split: str) -> Listing | None:
        categories, _ = _classes(split)
        for folder in (self._root / name for name in FOLDERS):
            for read in (_from_folders, _from_csv, _from_pickles):
                if found := read(folder, split):
                    rows, stamp = found
                    check_classes({c for c, _, _ in rows}, categories, f"{folder}: the {split} split", "tieredImageNet")
                    return make_listing(rows, stamp, categories)
        return None

    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        size, first = self.image_size, listing.items[0]
        images = None if isinstance(first, Path) else _images(first[0], len(listing.items))

        def decode(item: Path | tuple[Path, int]) -> np.ndarray:
            if isinstance(item, Path):
                return decode_image(item, channels=3, size=size)
            image = images[item[1]]
            if np.ndim(image) == 3:
                # OpenCV made these arrays, so their colors are blue, green, red.
                image = Image.fromarray(image[..., ::-1])
                return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
            encoded = image if isinstance(image, bytes) else np.asarray(image, dtype=np.uint8).tobytes()
            return decode_image(io.BytesIO(encoded), channels=3, size=size)

        return decode_parallel(listing.items, decode, out, title="tieredimagenet images")


def _classes(split: str) -> tuple[dict[str, str], dict[str, str]]:
    """WordNet id -> category, and name -> WordNet id, of the classes of a split."""
    table = [
        (*entry.split(" ", 1), category.split(" ", 1)[1])
        for category, entries in class_lists("tieredimagenet")[split].items()
        for entry in entries
    ]
    return {wnid: category for wnid, _, category in table}, {name: wnid for wnid, name, _ in table}


def _from_folders(folder: Path, split: str) -> tuple[list[Row], str] | None:
    if not (folder / split).is_dir():
        return None
    rows = folder_rows(class_folders(folder / split), folder)
    return (rows, files_stamp([path for _, _, path in rows])) if rows else None


def _from_csv(folder: Path, split: str) -> tuple[list[Row], str] | None:
    path = folder / f"{split}.csv"
    lines = read_csv(path, *COLUMNS) if path.is_file() and (folder / "images").is_dir() else None
    if lines is None:
        return None
    rows = [
        (label, f"{label}/{name}", find_image(folder, label, name, f"{path}, line {line}"))
        for line, (label, name) in lines
    ]
    return rows, files_stamp([path, *(image for _, _, image in rows)])


def _from_pickles(folder: Path, split: str) -> tuple[list[Row], str] | None:
    path = folder / f"{split}_labels.pkl"
    images = next(
        (p for p in (folder / f"{split}_images_png.pkl", folder / f"{split}_images.npz") if p.is_file()), None
    )
    if not path.is_file() or images is None:
        return None
    labels = load_arrays(path)
    if not isinstance(labels, dict) or not {"label_specific", "label_specific_str"} <= set(labels):
        raise ValueError(f"{path}: expected a dict with label_specific and label_specific_str, got other content")
    # `label_general` is not read: the category follows from the class.
    wnids = _classes(split)[1]
    names = [wnids.get(str(name).strip(), str(name).strip()) for name in labels["label_specific_str"]]
    numbers = np.asarray(labels["label_specific"]).reshape(-1).tolist()
    if any(not 0 <= number < len(names) for number in numbers):
        raise ValueError(f"{path}: label_specific goes beyond the {len(names)} names in label_specific_str")
    rows = [(names[number], f"{images.name}#{row:06}", (images, row)) for row, number in enumerate(numbers)]
    return rows, files_stamp([path, images])


def _images(path: Path, count: int) -> list | np.ndarray:
    """All images of a split: PNG files as bytes or arrays of bytes, or an array `[count, H, W, 3]`."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"{path}: expected images as uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    else:
        images = load_arrays(path)
    if len(images) != count:
        raise ValueError(f"{path}: expected {count} images, as many as there are labels, got {len(images)}")
    return images


def _download(root: Path) -> None:
    module = learn2learn_module("vision.datasets.tiered_imagenet", "downloading tieredImageNet")
    target = root / "tiered-imagenet"
    target.mkdir(parents=True, exist_ok=True)
    safe = mock.patch.object(tarfile.TarFile, "extraction_filter", staticmethod(ArchiveFilter()), create=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as place, safe:
        # Its `download` alone, with the file that its constructor names: the constructor also unpickles what came.
        module.TieredImagenet.download(None, "1g1aIDy2Ar_MViF2gDXFYDBTR-HYecV07", place)
        for file in (Path(place) / target.name).iterdir():
            os.replace(file, target / file.name)
