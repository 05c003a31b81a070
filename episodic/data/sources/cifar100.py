"""What CIFAR-FS and FC100 share: both are CIFAR-100, 600 images a class, with classes split in different ways."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from episodic.data.cache import ImageFile, decode_parallel, files_stamp
from episodic.data.dataset import AbstractDataset, Corrupt, data_dir
from episodic.data.image import decode_image
from episodic.data.sources.archives import unpacked
from episodic.data.sources.restricted_pickle import load_arrays
from episodic.data.sources.tables import Row, check_classes, class_folders, folder_rows, make_listing
from episodic.data.store import Listing
from episodic.episodes.arguments import choice, flag, integer

FOLDERS = ("cifar100", "cifarfs", "cifar-fs", "CIFAR-FS", "fc100", "FC100")
PICKLES = ("train", "test", "meta")
LAYOUT = """\
  cifar-100-python/{train,test,meta}
  cifar-100-python.tar.gz
  data/<class>/<image>.png, with or without splits/<split name>/{train,val,test}.txt beside data/"""


class AbstractCIFAR100(AbstractDataset):
    """CIFAR-100, split by class instead of its own split by image. The 500 + 100 images of a class are pooled."""

    channels = 3
    # Of the training images, as in MetaOptNet (Lee et al., 2019, https://arxiv.org/abs/1904.03758).
    mean = (129.37731888 / 255, 124.10583864 / 255, 112.47758569 / 255)
    std = (68.20947949 / 255, 65.43124043 / 255, 70.45866994 / 255)
    _source: str  # whose classes these are, for messages

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        image_size: int = 32,
        download: bool = False,
        corrupt: Corrupt = "error",
    ):
        self._root = data_dir(root)
        self._download = flag("download", download)  # underscored: where the files come from does not decide the images
        self.image_size = integer("image_size", image_size, at_least=1)
        self.corrupt = choice("corrupt", corrupt, Corrupt)

    @abc.abstractmethod
    def classes(self, split: str) -> dict[str, str]:
        """The classes of `split`, each with its super-class (CIFAR-100's coarse label)."""

    def listing(self, split: str) -> Listing:
        wanted = self.classes(split)
        found = self._find()
        if found is None and self._download:
            from torchvision.datasets import CIFAR100  # late: slow to import, and only needed here

            CIFAR100(str(self._root), download=True)  # both halves; torchvision compares their md5 before it opens them
            found = self._find()
        if found is None:
            raise FileNotFoundError(
                f"{self.name} was not found. Expected one of\n{LAYOUT}\n"
                f"in {self._root} or (data/ only there) in one of its folders {', '.join(FOLDERS)}.\n"
                "Download it with task.dataset.download=true, or point data_dir=<dir> (or EPISODIC_DATA) at that folder."
            )
        rows, stamp = (
            _pickle_rows(found, wanted) if found.name == "cifar-100-python" else self._tree(found, split, wanted)
        )
        check_classes({name for name, _, _ in rows}, wanted, f"{found}: the {split} split", self._source)
        return make_listing(rows, stamp, wanted)

    def _find(self) -> Path | None:
        for base in (self._root, *(self._root / name for name in FOLDERS)):
            pickles, archive, tree = base / "cifar-100-python", base / "cifar-100-python.tar.gz", base / "data"
            if all((pickles / name).is_file() for name in PICKLES):
                return pickles
            if archive.is_file():
                return unpacked(archive) / pickles.name
            if base != self._root and tree.is_dir():
                return tree
        return None

    def _tree(self, folder: Path, split: str, wanted: dict[str, str]) -> tuple[list[Row], str]:
        given = folder.parent / "splits" / self.split_name / f"{split}.txt"
        if given.is_file():
            check_classes(given.read_text("utf-8").split(), wanted, str(given), self._source)
        rows = folder_rows({n: p for n, p in class_folders(folder).items() if n in wanted}, folder)
        return rows, files_stamp([path for _, _, path in rows])

    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        size = self.image_size
        places = {item[0] for item in listing.items if isinstance(item, tuple)}
        halves = {place: _half(place)[0] for place in places}

        def decode(item: Path | tuple[Path, int]) -> np.ndarray:
            if isinstance(item, Path):
                return decode_image(item, channels=3, size=size)
            image = halves[item[0]][item[1]]
            if size != 32:
                resized = Image.fromarray(image.transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)
                image = np.asarray(resized).transpose(2, 0, 1)
            return image

        return decode_parallel(listing.items, decode, out, title=f"{self.name} images")


def _pickle_rows(folder: Path, wanted: dict[str, str]) -> tuple[list[Row], str]:
    meta = load_arrays(folder / "meta")
    names = meta.get("fine_label_names", ()) if isinstance(meta, dict) else ()
    if len(names) != 100:
        raise ValueError(f"{folder / 'meta'}: expected 100 fine_label_names of CIFAR-100, got {len(names)}")
    rows = [
        (names[y], f"{half}/{row:05}", (folder / half, row))
        for half in ("train", "test")
        for row, y in enumerate(_half(folder / half)[1])
        if names[y] in wanted
    ]
    return rows, files_stamp([folder / name for name in PICKLES])


def _half(path: Path) -> tuple[np.ndarray, Sequence[int]]:
    """Images `[N, 3, 32, 32]` (uint8) and fine labels of one of the two pickles."""
    data = load_arrays(path)
    keys = set(data) if isinstance(data, dict) else set()
    if not {"data", "fine_labels"} <= keys:
        raise ValueError(f"{path}: expected CIFAR-100's keys data and fine_labels, got {sorted(map(str, keys))}")
    images, labels = np.asarray(data["data"]), data["fine_labels"]
    if images.dtype != np.uint8 or images.shape != (len(labels), 3072) or not all(0 <= y < 100 for y in labels):
        raise ValueError(
            f"{path}: expected uint8 [N, 3072] and N labels below 100, got {images.dtype} {list(images.shape)} and "
            f"{len(labels)} labels"
        )
    return images.reshape(-1, 3, 32, 32), labels
