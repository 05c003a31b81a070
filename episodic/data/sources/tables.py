"""From files on disk to the rows of a `Listing`: folders of classes, CSV files, class lists."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from episodic.data.store import Listing

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SUFFIXES += (".jp2", ".avif", ".heic", ".heif")
COLUMNS = (("label", "filename"), ("class_name", "image_name"))  # of Ravi and Larochelle, of easyfsl
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Row = tuple[str, str, object]  # class, name of the item, the item itself


def class_lists(name: str) -> dict:
    """The published class lists in `splits/<name>.json`, as they are written there.

    >>> len(class_lists("cifarfs")["val"])
    16
    """
    return json.loads(files("episodic.data").joinpath(f"splits/{name}.json").read_text("utf-8"))


def make_listing(rows: Iterable[Row], stamp: str, super_classes: Mapping[str, str] | None = None) -> Listing:
    """Makes a listing of rows. Its order is by class, then by the item's name, so that no file system decides it.

    `super_classes` maps every class to the name of its super-class.

    **Raises:** `ValueError` for an item that is there twice.
    """
    rows = sorted(rows, key=lambda row: row[:2])
    twice = [name for name, n in Counter(name for _, name, _ in rows).items() if n > 1]
    if twice:
        raise ValueError(f"each image must be listed once, these are listed more often: {_some(twice)}")
    names = sorted({name for name, _, _ in rows})
    number = {name: i for i, name in enumerate(names)}
    above = sorted({super_classes[name] for name in names}) if super_classes else []
    return Listing(
        items=[item for _, _, item in rows],
        labels=[number[name] for name, _, _ in rows],
        class_names=names,
        item_names=[item_name for _, item_name, _ in rows],
        stamp=stamp,
        super_classes=[above.index(super_classes[name]) for name in names] if super_classes else None,
        super_class_names=above,
    )


def check_classes(found: Collection[str], wanted: Collection[str], where: str, source: str) -> None:
    """Refuses a split whose classes are not the published ones: its figures could not be compared with any paper.

    **Raises:** `ValueError` that counts and names the difference.
    """
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if extra or missing:
        raise ValueError(
            f"{where}: expected the {len(set(wanted))} classes of {source}, got {len(set(found))}: "
            f"{_some(missing)} missing, {_some(extra)} too many. Complete the data; for classes of your own use "
            "task=folder_5w1s."
        )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "none"


def class_folders(folder: Path) -> dict[str, Path]:
    """The folders in `folder`, by name, without hidden ones."""
    return {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def images_below(folder: Path) -> list[Path]:
    """The images in `folder` and the folders in it, sorted and without hidden ones. Suffixes may be upper case."""
    return [path for path in _files_below(folder) if path.name.lower().endswith(SUFFIXES)]


def others_below(folder: Path) -> list[Path]:
    """The files that `images_below` leaves out because of their names. Hidden files are in neither list."""
    return [path for path in _files_below(folder) if not path.name.lower().endswith(SUFFIXES)]


def _files_below(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def folder_rows(folders: Mapping[str, Path], below: Path) -> list[Row]:
    """All images of the given class folders, as rows. An item is a path, and its name is that path below `below`."""
    return [(c, p.relative_to(below).as_posix(), p) for c, folder in folders.items() for p in images_below(folder)]


def read_csv(path: Path, *choices: Sequence[str]) -> list[tuple[int, tuple[str, ...]]] | None:
    """Reads the lines of a CSV file with a header, as `(line number, values)`. It takes the first of `choices`, sets of columns,
    that the file has, and returns None if it has none of them.

    **Raises:** `ValueError` for a line that ends before these columns, and for a file that is no table of text.
    """
    try:
        return _read_csv(path, choices)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from None


def _read_csv(path: Path, choices: Sequence[Sequence[str]]) -> list[tuple[int, tuple[str, ...]]] | None:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, skipinitialspace=True)
        header = [name.strip() for name in next(lines, [])]
        columns = next((choice for choice in choices if set(choice) <= set(header)), None)
        if columns is None:
            return None
        places = [header.index(name) for name in columns]
        rows = []
        for line in lines:
            if not any(map(str.strip, line)):
                continue  # an empty line, often the last one
            if len(line) <= max(places):
                raise ValueError(f"{path}, line {lines.line_num}: expected the columns {','.join(header)}, got {line}")
            rows.append((lines.line_num, tuple(line[place].strip() for place in places)))
    return rows


def json_rows(path: Path) -> list[tuple[str, str, str]]:
    """Reads a JSON file with `label_names`, `image_names`, `image_labels`: `(class, image, where the file names it)` for each
    image.

    **Raises:** `ValueError` where one of these is missing, or the last two do not fit.
    """
    try:
        table = json.loads(path.read_text("utf-8"))
        names, images, labels = (table[key] for key in ("label_names", "image_names", "image_labels"))
        if not all(isinstance(name, str) for name in (*names, *images)) or len(set(names)) < len(names):
            raise TypeError("names are different texts")
        numbered = dict(enumerate(names))  # no list: its index -1 would be valid
        pairs = [(numbered[label], image) for label, image in zip(labels, images, strict=True)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected label_names, image_names and, for each image, an index into label_names in image_labels "
            f"({type(error).__name__}: {error})"
        ) from None
    return [(label, image, f"{path}, image_names[{i}]") for i, (label, image) in enumerate(pairs)]


def find_image(folder: Path, label: str, name: str, where: str) -> Path:
    """Finds the file of an image that a table in `folder` names. It may lie beside the table, in `images/`, or in a class's
    folder in either.

    **Raises:** `FileNotFoundError` that says `where` the table names it.
    """
    tried = [folder / name, folder / "images" / name, folder / "images" / label / name, folder / label / name]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{where}: there is no image {name} (looked for {', '.join(map(str, tried))}). Put it there, or take out the line."
    )
