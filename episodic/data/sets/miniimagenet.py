"""miniImageNet: 100 classes of ImageNet, 600 images each, in the layouts that people have it in."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import tempfile
import types
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from episodic._learn2learn import learn2learn_module
from episodic.data.cache import ImageFile, cache_dir, decode_parallel, files_stamp
from episodic.data.dataset import AbstractDataset, Corrupt, data_dir
from episodic.data.image import decode_image
from episodic.data.sources.restricted_pickle import load_arrays
from episodic.data.sources.tables import COLUMNS, class_lists
from episodic.data.store import Listing, digest
from episodic.episodes.arguments import choice, flag, integer

FOLDERS = ("miniimagenet", "mini-imagenet", "miniImageNet", "mini_imagenet")
CACHES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}  # of Ren et al.; learn2learn
CATEGORY_SPLITS = {"train": "train_phase_train", "val": "val", "test": "test"}  # of Gidaris and Komodakis
LAYOUT = """\
miniimagenet has no {split} split on disk. Expected in {root}/{folders} one of
  images/ with {split}.csv or split/{split}.csv beside it (columns filename,label or class_name,image_name)
  {split}/<class>/<image>.jpg
  mini-imagenet-cache-{split}.pkl or miniImageNet_category_split_*{split}.pickle
Download it with task.dataset.download=true, or point data_dir=<dir> (or EPISODIC_DATA) at the folder above it."""


class MiniImageNet(AbstractDataset):
    """miniImageNet: 64 classes of ImageNet for training, 16 for validation and 20 for test. Each class has 600 color images,
    squashed to a square: 38,400/9,600/12,000 in all.

    Vinyals et al., "Matching Networks for One Shot Learning", 2016, https://arxiv.org/abs/1606.04080, with the classes
    of Ravi and Larochelle, "Optimization as a Model for Few-Shot Learning", 2017, https://openreview.net/forum?id=rJY0-Kcll.
    Classes named by WordNet ids must be exactly these, so Vinyals' own are refused; of other names only the number is checked.

    A split is looked for as a CSV, then as folders, then as a pickle, which is read without running code. Images are in
    order of class, then name. `mean` and `std` are the training images' (Gidaris and Komodakis, 2018, and later papers).

    **Arguments:**

    - `root`: the folder that holds `miniimagenet/`; default `$EPISODIC_DATA`, else a folder in the user's cache.
    - `image_size`: side of the images, in pixels. Default 84, as published; other files are squashed to it.
    - `download`: fetch a split that is missing through learn2learn (about 1.2 GB for all). Default False.
    - `corrupt`: `"error"` or `"skip"` images that cannot be read or that only a CSV knows. Default `"error"`.

    **Raises:** by `store`: `FileNotFoundError` where a split is not on disk; `ValueError` for wrong classes or a pickle
    that is damaged or holds more than arrays; `ImportError` to download without learn2learn.

    >>> dataset = MiniImageNet("/data")  # reads nothing yet; dataset.store("train") does
    >>> dataset.name, dataset.split_name, dataset.image_size
    ('miniimagenet', 'ravi', 84)
    """

    name = "miniimagenet"
    split_name = "ravi"
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
        folders = [self._root / name for name in FOLDERS if (self._root / name).is_dir()]
        for read in (_from_csv, _from_folders, _from_pickle):
            for folder in folders:
                if listing := read(folder, split):
                    return listing
        if self._download:
            _download(folder := self._root / FOLDERS[0], split)
            return _from_pickle(folder, split)
        raise FileNotFoundError(LAYOUT.format(split=split, root=self._root, folders="|".join(FOLDERS)))

    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        size, (place, row) = self.image_size, listing.items[0]
        images = None if row is None else _arrays(place)[0]

        def decode(item: tuple[Path, int | None]) -> np.ndarray:
            if images is None:
                return decode_image(item[0], channels=3, size=size)
            image = Image.fromarray(images[item[1]]).resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(image).transpose(2, 0, 1)

        return decode_parallel(listing.items, decode, out, title="miniimagenet images")


def _download(folder: Path, split: str) -> None:
    module = learn2learn_module("vision.datasets.mini_imagenet", "downloading miniImageNet")

    class Downloaded(BaseException): ...  # no Exception, since learn2learn catches those

    def stop(_) -> None:
        raise Downloaded

    mode = CACHES[split][-1]
    folder.mkdir(parents=True, exist_ok=True)
    # learn2learn fetches the file and unpickles it in one go, which would run whatever the file says. With this in the
    # place of its pickle module it stops between the two.
    stopper = types.SimpleNamespace(load=stop, UnpicklingError=())
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as place:
        with mock.patch.object(module, "pickle", stopper), contextlib.suppress(Downloaded):
            module.MiniImagenet(root=place, mode=mode, download=True)
        file = Path(place) / f"mini-imagenet-cache-{mode}.pkl"
        _arrays(file)
        os.replace(file, folder / file.name)


def _from_csv(folder: Path, split: str) -> Listing | None:
    table = next((p for p in (folder / f"{split}.csv", folder / "split" / f"{split}.csv") if p.is_file()), None)
    if table is None:
        return None
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        label, image = next((pair for pair in COLUMNS if set(pair) <= set(reader.fieldnames or ())), (None, None))
        if image is None:
            raise ValueError(f"{table}: expected columns {COLUMNS[0]} or {COLUMNS[1]}, got {reader.fieldnames}")
        rows = [(row[label], row[image]) for row in reader]
    for place in ("images/{1}", "images/{0}/{1}", "{0}/{1}"):
        found = [(row[0], name := place.format(*row), (folder / name, None)) for row in rows]
        paths = [path for _, _, (path, _) in found]
        if any(path.is_file() for path in paths):  # those that are not are reported as images that cannot be read
            return _listing(table, split, found, files_stamp([table, *paths]))
    return None


def _from_folders(folder: Path, split: str) -> Listing | None:
    paths = sorted(p for p in folder.glob(f"{split}/[!.]*/[!.]*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    found = [(path.parent.name, f"{split}/{path.parent.name}/{path.name}", (path, None)) for path in paths]
    return _listing(folder / split, split, found, files_stamp(paths)) if found else None


def _from_pickle(folder: Path, split: str) -> Listing | None:
    names = [f"mini-imagenet-cache-{s}.pkl" for s in CACHES[split]]
    names.append(f"miniImageNet_category_split_{CATEGORY_SPLITS[split]}.pickle")
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return None
    # A pickle must be read as a whole (0.8 GB for train), so the classes of its rows are stored in the cache.
    stamp = files_stamp([path])
    index = cache_dir() / "pickles" / f"{digest(str(path.resolve()), stamp)}.json"
    rows = _read_index(index)
    if rows is None:
        rows = _arrays(path)[1]
        index.parent.mkdir(parents=True, exist_ok=True)
        building = index.with_suffix(f".{os.getpid()}")
        text = json.dumps(rows)
        building.write_text(json.dumps({"rows": rows, "checksum": digest(text)}))
        os.replace(building, index)
    found = [(name, f"{path.name}#{row:05}", (path, row)) for name, row in rows]
    return _listing(path, split, found, stamp)


def _read_index(path: Path) -> list[tuple[str, int]] | None:
    """The class and the row of each image, from the cache; None where they are not there, or are damaged."""
    try:
        stored = json.loads(path.read_text())
        whole = digest(json.dumps(stored["rows"])) == stored["checksum"]
        return [(name, row) for name, row in stored["rows"]] if whole else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _arrays(path: Path) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Images `[N, H, W, 3]` of a pickle, and `(class name, row)` of each."""
    data = load_arrays(path)
    keys = set(data) if isinstance(data, dict) else set()
    if keys >= {"image_data", "class_dict"}:
        images = np.asarray(data["image_data"])
        pairs = [(name, int(row)) for name, rows in data["class_dict"].items() for row in rows]
    elif keys >= {"data", "labels"}:
        images = np.asarray(data["data"])
        names = {number: name for name, number in data.get("catname2label", {}).items()}
        pairs = [(names.get(int(y), f"class{int(y):03}"), row) for row, y in enumerate(data["labels"])]
    else:
        raise ValueError(
            f"{path}: expected the keys image_data and class_dict, or data and labels, got {keys or type(data)}"
        )
    rows_fit = all(0 <= row < len(images) for _, row in pairs)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not rows_fit:
        raise ValueError(f"{path}: expected uint8 [N, H, W, 3] and rows of it, got {images.dtype} {images.shape}")
    return images, pairs


def _listing(where: Path, split: str, found: list[tuple[str, str, object]], stamp: str) -> Listing:
    """A listing of `(class, item name, item)` in a fixed order, if the classes are those of the split."""
    names = sorted({name for name, _, _ in found})
    wanted = class_lists("miniimagenet")[split]
    wordnet = any(re.fullmatch(r"n\d{8}", name) for name in names)
    if set(names) != set(wanted) if wordnet else len(names) != len(wanted):
        extra, missing = (", ".join(sorted(s)) or "none" for s in (set(names) - set(wanted), set(wanted) - set(names)))
        raise ValueError(
            f"{where}: expected the {len(wanted)} classes of Ravi and Larochelle's {split} split, got {len(names)}; extra: "
            f"{extra}; missing: {missing}. Figures would not compare; for classes of your own use task=folder_5w1s."
        )
    label = {name: i for i, name in enumerate(names)}
    classes, item_names, items = zip(*sorted(found, key=lambda row: row[:2]), strict=True)
    return Listing(items, [label[name] for name in classes], names, item_names, stamp)
