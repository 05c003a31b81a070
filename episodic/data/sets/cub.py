"""CUB-200-2011: 200 species of birds, in three splits that must not be mixed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from episodic._learn2learn import learn2learn_module
from episodic.data.cache import ImageFile, decode_parallel, files_stamp
from episodic.data.dataset import AbstractDataset, Corrupt, data_dir
from episodic.data.image import decode_image
from episodic.data.sources.archives import unpacked
from episodic.data.sources.tables import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_classes,
    class_folders,
    class_lists,
    folder_rows,
    make_listing,
)
from episodic.data.store import Listing
from episodic.episodes.arguments import choice, flag, integer

SplitName = Literal["closerlook", "feat", "triantafillou"]
FOLDERS = ("", "cub", "CUB", "cubirds200")
ARCHIVE, MD5 = "CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"
LAYOUT = """\
  CUB_200_2011/ with images/<id>.<species>/<image>.jpg, images.txt and bounding_boxes.txt
  CUB_200_2011.tgz"""


class CUB(AbstractDataset):
    """Caltech-UCSD Birds-200-2011: 11,788 photographs of 200 species of birds, in color. It is the usual fine-grained data set.

    >>> dataset = CUB("/data", split_name="feat")  # reads nothing yet; dataset.store("train") does
    >>> dataset.name, dataset.split_name
    ('cub', 'feat')

    Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011, https://www.vision.caltech.edu/datasets/cub_200_2011/.

    Papers use three splits by species and call each "the" split:

    - `"closerlook"`: 100/50/50 by a rule on the id counted from 0: even, 1 mod 4, 3 mod 4. 5,885/2,950/2,953 images. Chen et
      al., "A Closer Look at Few-shot Classification", 2019, https://arxiv.org/abs/1904.04232. (Code that counts from 1, as
      FRN's, gets other classes from this rule.)
    - `"feat"`: 100/50/50, another choice, and images are cropped to the bird's bounding box. 5,891/2,932/2,965 images. Ye
      et al., "Few-Shot Learning via Embedding Adaptation", 2020, https://arxiv.org/abs/1812.03664.
    - `"triantafillou"`: 140/30/30, 8,239/1,779/1,770 images. Triantafillou et al., "Meta-Dataset", 2020,
      https://arxiv.org/abs/1903.03096; used by easyfsl and learn2learn, too.

    They contaminate each other: of the 50 test classes of `"feat"`, 36 are training classes in `"triantafillou"` and 23 in
    `"closerlook"`. Neither figures nor trained weights carry over from one to another.

    Images are squashed to a square; with `"feat"` the short side is scaled and the center cut, as there (neither keeps
    the margin of 10-15% that the papers' code adds before cutting). `mean` and `std` are ImageNet's.

    **Arguments:**

    - `root`: the folder that holds `CUB_200_2011/` or its archive (also within `cub/`, `CUB/`, `cubirds200/`); default
      `$EPISODIC_DATA`, else a folder in the user's cache.
    - `split_name`: one of the above. Default `"closerlook"`.
    - `image_size`: side of the images, in pixels. Default 84.
    - `download`: fetch the archive through learn2learn (1.1 GB) where it is missing. Default False.
    - `corrupt`: `"error"` or `"skip"` images that cannot be read. Default `"error"`.

    **Raises:** `ValueError` for another `split_name`. By `store`: `FileNotFoundError` where the data are not on disk;
    `ValueError` for missing species or bounding boxes; `ImportError` to download without learn2learn.
    """

    name = "cub"
    channels = 3
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split_name: SplitName = "closerlook",
        image_size: int = 84,
        download: bool = False,
        corrupt: Corrupt = "error",
    ):
        self._root = data_dir(root)
        self._download = flag("download", download)  # underscored: where the files come from does not decide the images
        self.split_name = choice("split_name", split_name, SplitName)
        self.image_size = integer("image_size", image_size, at_least=1)
        self.corrupt = choice("corrupt", corrupt, Corrupt)

    def listing(self, split: str) -> Listing:
        folder = self._find()
        if folder is None and self._download:
            _download(self._root)
            folder = self._find()
        if folder is None:
            raise FileNotFoundError(
                f"cub was not found. Expected one of\n{LAYOUT}\n"
                f"in {self._root} or one of its folders {', '.join(FOLDERS[1:])}.\n"
                f"Get {ARCHIVE} from the page of Caltech-UCSD Birds-200-2011 or with task.dataset.download=true, or point "
                "data_dir=<dir> (or EPISODIC_DATA) at the folder that holds it."
            )
        ids = {f"{number:03}" for number in class_ids(self.split_name, split)}
        classes = {name: p for name, p in class_folders(folder / "images").items() if name.split(".")[0] in ids}
        source = f"the {self.split_name} {split} split"
        check_classes({name.split(".")[0] for name in classes}, ids, str(folder / "images"), source)
        rows = folder_rows(classes, folder / "images")
        paths = [path for _, _, path in rows]
        if self.split_name == "feat":
            boxes = _boxes(folder)
            without = [name for _, name, _ in rows if name not in boxes]
            if without:
                raise ValueError(
                    f"{folder / 'bounding_boxes.txt'}: no box for {len(without)} images, e.g. {without[0]}"
                )
            rows = [(label, name, (path, boxes[name])) for label, name, path in rows]
            paths += [folder / "images.txt", folder / "bounding_boxes.txt"]
        return make_listing(rows, files_stamp(paths))

    def _find(self) -> Path | None:
        for base in (self._root / name for name in FOLDERS):
            if (base / "CUB_200_2011" / "images").is_dir():
                return base / "CUB_200_2011"
            if (base / ARCHIVE).is_file():
                return unpacked(base / ARCHIVE) / "CUB_200_2011"
        return None

    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        size = self.image_size

        def decode(item: Path | tuple[Path, tuple[float, ...]]) -> np.ndarray:
            if isinstance(item, Path):
                return decode_image(item, channels=3, size=size)
            path, (left, top, width, height) = item
            with Image.open(path) as image:
                right, bottom = min(left + width, image.width), min(top + height, image.height)
                bird = image.convert("RGB").crop((int(left), int(top), int(right), int(bottom)))
            return np.asarray(ImageOps.fit(bird, (size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

        return decode_parallel(listing.items, decode, out, title="cub images")


def class_ids(split_name: str, split: str) -> list[int]:
    """The ids (1..200) of the species in a split.

    >>> len(class_ids("triantafillou", "train"))
    140
    """
    if split_name == "closerlook":
        fits = {"train": lambda i: i % 2 == 0, "val": lambda i: i % 4 == 1, "test": lambda i: i % 4 == 3}[split]
        return [i + 1 for i in range(200) if fits(i)]
    return class_lists("cub")[split_name][split]


def _boxes(folder: Path) -> dict[str, tuple[float, ...]]:
    """Image -> left, top, width and height of the bird in it, in pixels."""
    tables = []
    for name, columns, shape in (
        ("images.txt", "<id> <image>", r"(\d+) (\S+)"),
        ("bounding_boxes.txt", "<id> <left> <top> <width> <height>", r"(\d+)" + r" ([\d.]+)" * 4),
    ):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: split_name=feat crops every image to the box given there")
        lines = path.read_text("utf-8").splitlines()
        matches = [re.fullmatch(shape, line.strip()) for line in lines]
        if None in matches:
            line = matches.index(None)
            raise ValueError(f"{path}, line {line + 1}: expected {columns}, got {lines[line]!r}")
        tables.append({match[1]: match.groups()[1:] for match in matches})
    images, boxes = tables
    return {images[number][0]: tuple(map(float, box)) for number, box in boxes.items() if number in images}


def _download(root: Path) -> None:
    module = learn2learn_module("vision.datasets.cu_birds200", "downloading CUB")
    root.mkdir(parents=True, exist_ok=True)
    part = root / f"{ARCHIVE}.part"
    # The file alone: learn2learn would unpack it without a look at what it holds.
    module.download_file(module.ZENODO_URL, str(part))
    with part.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != MD5:
        part.unlink()
        raise ValueError(
            f"{module.ZENODO_URL} sent a file with md5 {md5}, expected {MD5}. Try again, or get it by hand."
        )
    os.replace(part, root / ARCHIVE)
