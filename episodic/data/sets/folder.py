"""Any folder of images, with splits from folders, from tables, or drawn at random."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from episodic.data.cache import ImageFile, decode_parallel, files_stamp
from episodic.data.dataset import SPLITS, AbstractDataset, Corrupt
from episodic.data.image import Channels, Resize, decode_image
from episodic.data.sources.tables import (
    COLUMNS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    class_folders,
    find_image,
    folder_rows,
    images_below,
    json_rows,
    make_listing,
    read_csv,
)
from episodic.data.store import Listing
from episodic.episodes.arguments import choice, file_path, integer, numbers, refuse

# The names of A Closer Look at Few-shot Classification.
JSON_NAMES = {"train": "base.json", "val": "val.json", "test": "novel.json"}
OML_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
LAYOUT = """\
  {train,val,test}/<class>/<image>
  {train,val,test}.csv with the columns filename,label or class_name,image_name
  {base,val,novel}.json with label_names, image_names and image_labels
  one .csv with the columns label,path,split
  <class>/<image>, to be split at random"""

Source = (
    Path | list[tuple[str, str]]
)  # a class's folder, or the images that a table names, with the line that names each


class Folder(AbstractDataset):
    """Your own images, in a folder. Only its path is needed: the splits are given by subfolders or tables, or classes are
    assigned to them at random. The first of these layouts that is found decides:

    - `"folders"`: `{train,val,test}/<class>/`.
    - `"csv"`: `{train,val,test}.csv` with the columns `filename,label` or `class_name,image_name`, as miniImageNet has.
    - `"json"`: `{base,val,novel}.json` with `label_names`, `image_names`, `image_labels`, as of CloserLook
      (https://github.com/wyharveychen/CloserLookFewShot).
    - `"oml"`: one CSV with the columns `label,path,split`, as of Open Metric Learning (https://github.com/OML-Team);
      `split` is `train`, `validation` (or `val`) or `test`.
    - `"random-<seed>"`: each class is a folder `<class>/`, assigned to a split at random. A new class changes all assignments.

    Images may lie deeper, in folders within a class's. Those of a table are looked for at the given path, in `images/`,
    and in `<class>/` in either. Hidden files are ignored, suffixes may be upper case. No class may be in two splits.

    `mean` and `std` are ImageNet's, for one channel their averages. `name` is that of the folder.

    **Arguments:**

    - `path`: the folder.
    - `image_size`: side of the images, in pixels. Default 84.
    - `channels`: 3 for color (default), 1 for gray.
    - `resize`: `"crop"` (default) scales the short side and cuts the center; `"squash"` scales both sides.
    - `fractions`: of the classes for train, val and test, where they are split at random. Default 0.64, 0.16, 0.2.
    - `seed`: of that split. Default 0.
    - `corrupt`: `"error"` or `"skip"` images that cannot be read. Default `"error"`. An image that a table names and that
      is not there is an error in any case.

    **Raises:** `ValueError` for `channels`, `resize` or `fractions` that are not as above. By `store`: `FileNotFoundError`
    where the folder, its classes, a split or an image that a table names is missing; `ValueError` for a class in two
    splits, a table that cannot be understood, or too few classes.

    >>> dataset = Folder("/pictures/birds", image_size=84)  # reads nothing yet; dataset.store("train") does
    >>> dataset.name, dataset.channels, dataset.resize
    ('birds', 3, 'crop')
    """

    def __init__(
        self,
        path: str | os.PathLike,
        image_size: int = 84,
        channels: Channels = 3,
        resize: Resize = "crop",
        fractions: Sequence[float] = (0.64, 0.16, 0.2),
        seed: int = 0,
        corrupt: Corrupt = "error",
    ):
        self._fractions = numbers("fractions", fractions)  # underscored: these choose images, they do not change one
        self._seed = integer("seed", seed)
        if len(self._fractions) != 3 or min(self._fractions) <= 0 or abs(sum(self._fractions) - 1) > 1e-6:
            refuse("fractions", "three positive numbers that add up to 1", list(self._fractions))
        self._path = Path(os.path.abspath(file_path("path", path)))
        self.name = self._path.name or "folder"
        self.image_size = integer("image_size", image_size, at_least=1)
        self.channels = choice("channels", channels, Channels)
        self.resize = choice("resize", resize, Resize)
        self.corrupt = choice("corrupt", corrupt, Corrupt)
        self.mean = IMAGENET_MEAN if self.channels == 3 else (0.449,)
        self.std = IMAGENET_STD if self.channels == 3 else (0.226,)

    @property
    def split_name(self) -> str:
        """Which kind of split the folder has."""
        if not self._path.is_dir():
            raise FileNotFoundError(
                f"{self._path} is no folder. Set task.dataset.path to one of these layouts:\n{LAYOUT}"
            )
        if all((self._path / split).is_dir() for split in ("train", "test")):
            return "folders"
        for kind in ("csv", "json"):
            if any(self._table(kind, split) for split in SPLITS):
                return kind
        return "oml" if self._oml() else f"random-{self._seed}"

    def listing(self, split: str) -> Listing:
        classes = self._classes()
        for one, other in itertools.combinations(SPLITS, 2):
            if both := sorted(set(classes[one]) & set(classes[other])):
                raise ValueError(
                    f"{self._path}: {one} and {other} share {len(both)} classes, e.g. {both[0]}. Few-shot splits must have "
                    "different classes: leave each class in one of them."
                )
        rows = []
        for label, source in classes[split].items():
            if isinstance(source, Path):
                rows += folder_rows({label: source}, self._path)
            else:
                paths = [find_image(self._path, label, name, where) for name, where in source]
                rows += [(label, os.path.relpath(path, self._path), path) for path in paths]
        if not rows:
            raise FileNotFoundError(f"{self._path} has no {split} images. Expected one of these layouts:\n{LAYOUT}")
        return make_listing(rows, files_stamp([path for _, _, path in rows]))

    def _classes(self) -> dict[str, dict[str, Source]]:
        """Split -> class -> where its images are."""
        kind = self.split_name
        if kind == "folders":
            folders = {split: self._path / split for split in SPLITS}
            return {split: class_folders(folder) if folder.is_dir() else {} for split, folder in folders.items()}
        if kind.startswith("random"):
            return self._dealt()
        if kind == "oml":
            path, lines = self._oml()
            rows = [(OML_SPLITS.get(split), c, name, f"{path}, line {n}") for n, (c, name, split) in lines]
            if unknown := [row for row in rows if row[0] is None]:
                raise ValueError(f"{unknown[0][3]}: split must be one of {', '.join(OML_SPLITS)}")
        else:
            read = _csv_rows if kind == "csv" else json_rows
            rows = [(split, *row) for split in SPLITS if (p := self._table(kind, split)) for row in read(p)]
        classes: dict[str, dict[str, Source]] = {split: {} for split in SPLITS}
        for split, label, name, where in rows:
            classes[split].setdefault(label, []).append((name, where))
        return classes

    def _table(self, kind: str, split: str) -> Path | None:
        names = (f"{split}.csv", f"split/{split}.csv") if kind == "csv" else (JSON_NAMES[split],)
        return next((self._path / name for name in names if (self._path / name).is_file()), None)

    def _oml(self) -> tuple[Path, list] | None:
        files = sorted(path for path in self._path.glob("[!.]*.csv") if path.is_file())
        tables = [(path, read_csv(path, ("label", "path", "split"))) for path in files]
        return next(((path, lines) for path, lines in tables if lines is not None), None)

    def _dealt(self) -> dict[str, dict[str, Source]]:
        folders = {name: folder for name, folder in class_folders(self._path).items() if images_below(folder)}
        if not folders:
            raise FileNotFoundError(
                f"{self._path} has no folders with images. Expected one of these layouts:\n{LAYOUT}"
            )
        # Raw numbers, since how NumPy makes a permutation of them may change from version to version.
        order = np.argsort(np.random.Philox(self._seed).random_raw(len(folders)), kind="stable")
        ends = np.rint(np.cumsum(self._fractions) * len(folders)).astype(int)
        parts = np.split(order, ends[:2])
        if min(map(len, parts)) == 0:
            raise ValueError(
                f"{self._path}: its {len(folders)} classes ({', '.join(list(folders)[:5])}, ...) make splits of "
                f"{'/'.join(str(len(part)) for part in parts)} classes by the fractions {list(self._fractions)}; each needs "
                "at least one. Add classes, or change fractions."
            )
        names = sorted(folders)
        return {split: {names[i]: folders[names[i]] for i in part} for split, part in zip(SPLITS, parts, strict=True)}

    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        def decode(path: Path) -> np.ndarray:
            return decode_image(path, channels=self.channels, size=self.image_size, resize=self.resize)

        return decode_parallel(listing.items, decode, out, title=f"{self.name} images")


def _csv_rows(path: Path) -> list[tuple[str, str, str]]:
    lines = read_csv(path, *COLUMNS)
    if lines is None:
        raise ValueError(f"{path}: expected a header with the columns filename,label or class_name,image_name")
    return [(label, name, f"{path}, line {line}") for line, (label, name) in lines]
