"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from episodic.data.cache import ImageFile, decode_parallel, files_stamp
from episodic.data.dataset import AbstractDataset, Corrupt, data_dir, find_root
from episodic.data.image import decode_image
from episodic.data.sources.tables import class_lists
from episodic.data.store import Listing, digest
from episodic.episodes.arguments import choice, flag, integer

SplitName = Literal["vinyals", "lake"]
MOST_BYTES = 1 << 20  # of a drawing in a zip file; those of the release have a few hundred
FOLDERS = ("omniglot", "omniglot-py")  # the latter is torchvision's
LAYOUT = """\
  <data_dir>/omniglot/images_background.zip and images_evaluation.zip, or the two folders unpacked from them:
  <data_dir>/omniglot/images_background/<Alphabet>/character<NN>/<NNNN_MM>.png
Instead of omniglot/, torchvision's omniglot-py/ will do. Download it with task.dataset.download=true (10 MB).
"""


class Omniglot(AbstractDataset):
    """Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each. Ink is 255 on paper of 0, in one channel;
    super-classes are the alphabets.

    >>> dataset = Omniglot("/data", split_name="vinyals")  # reads nothing yet; dataset.store("train") does
    >>> dataset.name, dataset.channels, dataset.image_size
    ('omniglot', 1, 28)

    Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", 2015,
    https://doi.org/10.1126/science.aab3050. Files are 105x105 with 1 bit a pixel.

    **Splits** (`split_name`):

    - `"vinyals"`: 1028/172/423 characters, the lists of Prototypical Networks and most later papers (from Vinyals et
      al., "Matching Networks for One Shot Learning", 2016, https://arxiv.org/abs/1606.04080). Alphabets are disjoint,
      except that Gurmukhi has 41 characters in train and 4 in test.
    - `"lake"`: the release's own halves, 964 background characters to train and 659 evaluation characters to test. No
      validation classes were published, so `"val"` does not exist.

    Departure: images are resized with an antialiased bilinear filter (MAML: Lanczos; Ren et al.: bicubic). The code of
    Prototypical Networks resized 1-bit images: Pillow then takes one pixel in fourteen, so that strokes break.

    **Arguments:**

    - `root`: the folder that holds `omniglot/`; default `$EPISODIC_DATA`, else a folder in the user's cache.
    - `split_name`: `"vinyals"` or `"lake"`.
    - `image_size`: side of the images, in pixels. Default 28, as published.
    - `rotations`: make each character turned by 0, 90, 180 and 270 degrees (anticlockwise) a class of its own, as
      published: 4112/688/1692 classes. Default True.
    - `download`: fetch both halves through torchvision where they are missing. Default False.
    - `corrupt`: `"error"` or `"skip"` images that cannot be read. Default `"error"`.

    **Raises:** `ValueError` for an unknown `split_name`, and by `store` for a copy that is damaged or lacks characters;
    `FileNotFoundError` by `store` where the data, or the validation classes of `"lake"`, are missing.
    """

    name = "omniglot"
    channels = 1
    mean = (0.0,)
    std = (1.0,)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split_name: SplitName = "vinyals",
        image_size: int = 28,
        rotations: bool = True,
        download: bool = False,
        corrupt: Corrupt = "error",
    ):
        self._root = data_dir(root)
        self._download = flag("download", download)  # underscored: where the files come from does not decide the images
        self.split_name = choice("split_name", split_name, SplitName)
        self.image_size = integer("image_size", image_size, at_least=1)
        self.rotations = flag("rotations", rotations)
        self.corrupt = choice("corrupt", corrupt, Corrupt)

    def listing(self, split: str) -> Listing:
        wanted = characters(self.split_name, split)
        drawings, stamps = {}, []
        for half in sorted({half for half, _, _ in wanted}):
            found, stamp = _drawings(self._find(half), half)
            drawings |= found
            stamps.append(stamp)
        missing = [f"{alphabet}/{name}" for half, alphabet, name in wanted if (half, alphabet, name) not in drawings]
        if missing:
            raise ValueError(
                f"omniglot {split}: {len(missing)} of {len(wanted)} characters are missing under {self._root}, e.g. "
                f"{', '.join(missing[:3])}. The copy is incomplete: delete it and get both archives again."
            )
        turns = (0, 1, 2, 3) if self.rotations else (0,)
        hashed, slashed = ([f"{mark}rot{90 * turn:03}" if self.rotations else "" for turn in turns] for mark in "#/")
        alphabets = sorted({alphabet for _, alphabet, _ in wanted})
        items, labels, class_names, item_names, super_classes = [], [], [], [], []
        for half, alphabet, name in wanted:
            for turn in turns:
                for file, member in drawings[half, alphabet, name]:
                    items.append((file, member, turn))
                    labels.append(len(class_names))
                    item_names.append(f"{half}/{alphabet}/{name}/{member.rsplit('/')[-1]}" + hashed[turn])
                class_names.append(f"{alphabet}/{name}" + slashed[turn])
                super_classes.append(alphabets.index(alphabet))
        return Listing(items, labels, class_names, item_names, digest(*stamps), super_classes, alphabets)

    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        """Decodes each drawing once and turns it as often as it is listed."""
        row_of = {source: row for row, source in enumerate(dict.fromkeys(item[:2] for item in listing.items))}
        rows = np.array([row_of[item[:2]] for item in listing.items])
        turns = np.array([turn for _, _, turn in listing.items])
        upright = np.zeros((len(row_of), *out.shape[1:]), dtype=np.uint8)
        with contextlib.ExitStack() as stack:
            zips = {file for file, _ in row_of if file.suffix == ".zip"}
            archives, lock = {file: stack.enter_context(zipfile.ZipFile(file)) for file in zips}, threading.Lock()

            def decode(source: tuple[Path, str]) -> np.ndarray:
                data = _read(archives, lock, *source)
                return 255 - decode_image(io.BytesIO(data), channels=1, size=self.image_size)

            failed = decode_parallel(list(row_of), decode, upright, title="omniglot drawings")
        for turn in np.unique(turns):
            out[turns == turn] = np.rot90(upright[rows[turns == turn]], turn, axes=(2, 3))
        return {item: failed[row] for item, row in enumerate(rows.tolist()) if row in failed}

    def _find(self, half: str) -> Path:
        candidates = [f"{folder}/{half}{ending}" for folder in FOLDERS for ending in (".zip", "")]
        try:
            return find_root(self._root, candidates, f"omniglot ({half})", LAYOUT)
        except FileNotFoundError:
            if not self._download:
                raise
        from torchvision.datasets import Omniglot as Release

        try:
            for background in (True, False):
                Release(self._root, background=background, download=True)
        except RuntimeError as error:  # torchvision's word for a checksum that does not fit
            raise ValueError(f"omniglot could not be downloaded to {self._root}: {error}") from error
        return find_root(self._root, candidates, f"omniglot ({half})", LAYOUT)


def characters(split_name: str, split: str) -> list[tuple[str, str, str]]:
    """The characters of a split, as `(half, alphabet, character)`, sorted by alphabet, then by number.

    >>> len(characters("vinyals", "val"))
    172

    **Raises:** `FileNotFoundError` for the validation classes of `"lake"`.
    """
    table = class_lists("omniglot_vinyals")
    of_split = {part: _expand(table[part]) for part in ("train", "val", "test")}
    if split_name == "vinyals":
        return sorted(of_split[split], key=lambda c: c[1:])
    if split == "val":
        raise FileNotFoundError(
            "omniglot as split by Lake has training (background) and test (evaluation) classes only; no validation "
            "classes were published. Use task.dataset.split_name=vinyals for them."
        )
    half = "images_background" if split == "train" else "images_evaluation"
    return sorted((c for part in of_split.values() for c in part if c[0] == half), key=lambda c: c[1:])


def _expand(halves: dict) -> list[tuple[str, str, str]]:
    return [
        (half, alphabet, f"character{number:02}")
        for half, alphabets in halves.items()
        for alphabet, (first, last) in alphabets.items()
        for number in range(first, last + 1)
    ]


def _drawings(place: Path, half: str) -> tuple[dict[tuple[str, str, str], list[tuple[Path, str]]], str]:
    """`(half, alphabet, character) -> [(file, member of the zip or path)]` and the stamp of a zip or a folder."""
    if place.suffix == ".zip":
        try:
            with zipfile.ZipFile(place) as archive:
                sources, stamp = [(place, member) for member in archive.namelist()], files_stamp([place])
        except zipfile.BadZipFile as error:
            raise ValueError(f"{place} is no whole zip file ({error}): delete it and get it again") from None
    else:
        paths = sorted(place.glob("*/*/*.png"))
        sources, stamp = [(path, path.as_posix()) for path in paths], files_stamp(paths)
    # The dot keeps out the "._" files that macOS puts into archives.
    pattern = re.compile(rf"(?:.*/)?{half}/([^/]+)/(character\d+)/[^/.][^/]*\.png")
    found = {}
    for source in sorted(sources):
        if match := pattern.fullmatch(source[1]):
            found.setdefault((half, *match.groups()), []).append(source)
    return found, stamp


def _read(archives: dict[Path, zipfile.ZipFile], lock: threading.Lock, file: Path, member: str) -> bytes:
    if file not in archives:
        return file.read_bytes()
    try:
        with lock:  # the threads share one handle
            if archives[file].getinfo(member).file_size > MOST_BYTES:
                raise ValueError(f"damaged in {file.name}: a drawing of more than {MOST_BYTES >> 20} MiB")
            return archives[file].read(member)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"damaged in {file.name}: {error}") from None
