"""An entry of the cache comes back as it was written, or `DamagedEntry` says what is wrong with it."""

import json
import os
import zlib

import numpy as np
import pytest

from episodic.data import entry
from episodic.data.entry import DamagedEntry, npy_header, open_entry, page_checksums, seal_entry

NAMES, SHAPE = ("a", "b", "c", "d"), (2, 3, 5)
IMAGES = np.arange(3 * 2 * 3 * 5, dtype=np.uint8).reshape(3, *SHAPE)


@pytest.fixture
def folder(tmp_path):
    """An entry of four images, the second of which could not be read."""
    np.save(tmp_path / "images.npy", IMAGES)
    seal_entry(tmp_path, [("b", "no picture")])
    return tmp_path


def test_comes_back_as_it_was_written(folder):
    images, skipped = open_entry(folder, NAMES, SHAPE, verify=True)
    np.testing.assert_array_equal(images, IMAGES)
    assert skipped == {"b": "no picture"}
    images[0] = 7  # a copy on write: the file keeps its images
    np.testing.assert_array_equal(np.load(folder / "images.npy"), IMAGES)


def test_header_is_numpys(folder):
    assert (folder / "images.npy").read_bytes() == npy_header(IMAGES.shape) + IMAGES.tobytes()


def test_no_entry(tmp_path):
    with pytest.raises(FileNotFoundError, match="no entry"):
        open_entry(tmp_path / "entry", NAMES, SHAPE)


def test_a_page_has_its_own_checksum(folder, monkeypatch):
    monkeypatch.setattr(entry, "PAGE", 100)
    seal_entry(folder, [("b", "no picture")])
    data = (folder / "images.npy").read_bytes()
    pages = [data[start : start + 100] for start in range(0, len(data), 100)]
    assert json.loads((folder / "store.json").read_text())["pages"] == list(map(zlib.crc32, pages))
    for position in (130, 210):
        data = data[:position] + b"\xff" + data[position + 1 :]
    (folder / "images.npy").write_bytes(data)
    open_entry(folder, NAMES, SHAPE)
    with pytest.raises(DamagedEntry, match=r"2 of 3 pages of .*images.npy have a wrong checksum"):
        open_entry(folder, NAMES, SHAPE, verify=True)


def test_checksums_begin_where_the_file_stands(folder):
    with (folder / "images.npy").open("rb") as file:
        file.seek(50)
        assert page_checksums(file) == [zlib.crc32((folder / "images.npy").read_bytes()[50:])]


def swap_dtype(path):
    np.save(path, IMAGES.astype(np.int8))


def swap_order(path):
    np.save(path, np.asfortranarray(IMAGES))


def swap_shape(path):
    np.save(path, IMAGES.reshape(3, 3, 2, 5))


@pytest.mark.parametrize("change", [swap_dtype, swap_order, swap_shape])
def test_arrays_of_another_form_are_refused(folder, change):
    change(folder / "images.npy")
    with pytest.raises(DamagedEntry, match=r"images.npy does not begin as uint8 \[3, 2, 3, 5\]"):
        open_entry(folder, NAMES, SHAPE)


@pytest.mark.parametrize("bytes_more", [-1, 1])
def test_the_size_is_exact(folder, bytes_more):
    os.truncate(folder / "images.npy", 128 + 90 + bytes_more)
    with pytest.raises(DamagedEntry, match=f"images.npy has {218 + bytes_more} bytes, expected 218"):
        open_entry(folder, NAMES, SHAPE)


@pytest.mark.parametrize("table", ["", "[]", "null", "{}", '{"skipped": []}', "[" * 100_000, "\x00" * 50, "1" * 10_000])
def test_tables_of_another_form_are_refused(folder, table):
    (folder / "store.json").write_text(table)
    with pytest.raises(DamagedEntry, match=r"store.json (is no JSON|has a wrong checksum)"):
        open_entry(folder, NAMES, SHAPE)


@pytest.mark.parametrize("position", range(0, 80, 7))
def test_a_flipped_bit_of_the_table_is_found(folder, position):
    data = bytearray((folder / "store.json").read_bytes())
    data[position] ^= 1
    (folder / "store.json").write_bytes(data)
    with pytest.raises(DamagedEntry, match=r"store\.json"):
        open_entry(folder, NAMES, SHAPE)


@pytest.mark.parametrize("name", ["images.npy", "store.json"])
def test_what_is_no_file_is_not_read(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)  # who reads it waits forever
    with pytest.raises(DamagedEntry, match=f"{name} is missing"):
        open_entry(folder, NAMES, SHAPE)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(DamagedEntry, match=f"{name} is missing"):
        open_entry(folder, NAMES, SHAPE)


def test_all_is_on_the_disk_when_it_is_sealed(folder, monkeypatch):
    flushed = []
    monkeypatch.setattr(entry, "flush", lambda path: flushed.append((path.name, path.stat().st_size)))
    seal_entry(folder, [("b", "no picture")])
    assert flushed == [(name, (folder / name).stat().st_size) for name in ("images.npy", "store.json")]
