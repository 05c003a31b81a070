import dataclasses
import errno
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

from episodic.data import cache as cache_module
from episodic.data import folders
from episodic.data.cache import ImageFile, build_store, cache_dir, decode_parallel
from episodic.data.store import Listing

LISTING = Listing(items=[10, 20, 30], labels=[0, 0, 1], class_names=["a", "b"], item_names=["x", "y", "z"], stamp="1")
WHERE = dict(shape=(1, 2, 2), key="k", dataset="made", split="train", split_name="up")


def render(listing, out):
    def decode(value):
        if value == "broken":
            raise ValueError("no picture")
        return np.full((1, 2, 2), value, np.uint8)

    return decode_parallel(listing.items, decode, out, title="made")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    return tmp_path / "stores"


def test_is_built_once_and_again_when_the_data_change(cache):
    calls = []

    def counted(listing, out):
        calls.append(listing.stamp)
        return render(listing, out)

    for stamp in ("1", "1", "2"):
        store = build_store(dataclasses.replace(LISTING, stamp=stamp), counted, **WHERE)
        assert store.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert calls == ["1", "2"]
    assert len(list(cache.iterdir())) == 2


def test_a_build_that_dies_leaves_nothing(cache):
    def dying(listing, out):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(LISTING, dying, **WHERE)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(cache):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def filling(listing, out):
        out._file = Full()
        return render(listing, out)

    with pytest.raises(OSError, match=r"made train: No space .* has no room for 12 bytes .* EPISODIC_CACHE") as told:
        build_store(LISTING, filling, **WHERE)
    assert told.value.errno == errno.ENOSPC
    assert list(cache.iterdir()) == []


def test_rows_of_a_file_take_what_rows_of_an_array_take(tmp_path):
    images = np.arange(7 * 3 * 2 * 2, dtype=np.uint8).reshape(7, 3, 2, 2)
    array = np.zeros_like(images)
    with (tmp_path / "images.npy").open("wb") as file:
        for out in (array, ImageFile(file, images.shape)):
            assert (len(out), out.shape) == (7, (7, 3, 2, 2))
            out[1:3] = images[:2]
            out[2] = images[1, 0]  # the same for each channel
            out[[6, 0, 3]] = images[4:]  # neither in order nor beside one another
            out[np.arange(7) == 4] = np.moveaxis(images[2:3].transpose(0, 2, 3, 1).copy(), -1, 1)
        with pytest.raises(TypeError, match=r"images are assigned whole: out\[row\] = image"):
            out[0, 1] = images[0, 1]
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), array)  # row 5 was never assigned


def test_broken_images_are_named_or_left_out_whatever_was_cached_first():
    listing = dataclasses.replace(LISTING, items=[10, "broken", 30])
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"(?s)made train: 1 of 3 images cannot be read.*  y: no picture.*corrupt=skip"
        ):
            build_store(listing, render, **WHERE)
        store = build_store(listing, render, corrupt="skip", **WHERE)
        assert store.skipped == (("y", "no picture"),)
        assert store.item_names == ("x", "z")
        assert store.labels.tolist() == [0, 1]
        assert store.images[:, 0, 0, 0].tolist() == [10, 30]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(item_names=["x", "y", "x"]), "x is listed twice"),
        (dict(items=[], labels=[], item_names=[]), "no images found"),
    ],
)
def test_listings_that_cannot_be_used(change, message):
    with pytest.raises(ValueError, match=message):
        build_store(dataclasses.replace(LISTING, **change), render, **WHERE)


def broken_entry(cache):
    """An entry whose file of images was replaced by a shorter one."""
    build_store(LISTING, render, **WHERE)
    [folder] = cache.iterdir()
    (folder / "short").write_bytes((folder / "images.npy").read_bytes()[:-1])
    os.replace(folder / "short", folder / "images.npy")
    return folder


def test_who_has_the_images_mapped_keeps_them(cache, capsys):
    before = build_store(LISTING, render, **WHERE)
    folder = broken_entry(cache)
    after = build_store(LISTING, render, **WHERE)
    assert capsys.readouterr().out == (
        f"Note: made train: the cache is damaged ({folder / 'images.npy'} has 139 bytes, expected 140); "
        "its images are decoded anew\n"
    )
    assert before.images.equal(after.images)
    assert before.images[:, 0, 0, 0].tolist() == [10, 20, 30]


def steps_of_a_build(monkeypatch, call, act):
    """Do `act` in the place of call number `call` of all that a build does on the disk; returns the calls made so far."""
    calls = []

    def counted(function):
        def wrapper(*arguments, **keywords):
            calls.append(function.__name__)
            if len(calls) == call:
                act()
            return function(*arguments, **keywords)

        return wrapper

    for module, name in ((os, "rename"), (os, "fsync"), (Path, "mkdir"), (Path, "write_text"), (folders, "remove")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return calls


@pytest.mark.parametrize("damaged", [False, True])
def test_killed_at_any_step_it_is_whole_the_next_time(cache, monkeypatch, damaged):
    listing = dataclasses.replace(LISTING, stamp="killed")
    with monkeypatch.context() as patch:
        count = len(killed_steps(patch, listing, damaged, cache))
    assert count >= 8
    for call in range(1, count + 1):
        folders.remove(cache)
        if damaged:
            build_store(listing, render, **WHERE)
            [folder] = cache.iterdir()
            os.truncate(folder / "images.npy", 100)
        child = os.fork()
        if child == 0:
            try:
                steps_of_a_build(monkeypatch, call, lambda: os._exit(9))
                build_store(listing, render, **WHERE)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        store = build_store(listing, render, **WHERE)
        assert store.images[:, 0, 0, 0].tolist() == [10, 20, 30]
        with folders.new_folder(cache / "next"):
            pass  # sweeps
        assert len(list(cache.iterdir())) == 1


def killed_steps(monkeypatch, listing, damaged, cache):
    if damaged:
        build_store(listing, render, **WHERE)
        [folder] = cache.iterdir()
        os.truncate(folder / "images.npy", 100)
    calls = steps_of_a_build(monkeypatch, 0, None)
    build_store(listing, render, **WHERE)
    return list(calls)


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_that_build_the_same_entry_both_have_it(cache, damaged):
    if damaged:
        broken_entry(cache)
    (told, tell), (released, release) = os.pipe(), os.pipe()

    def slowly(listing, out):
        os.write(tell, b"1")
        os.read(released, 1)  # comes when the other one is rendering as well
        return render(listing, out)

    twins = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                images = build_store(LISTING, slowly, **WHERE).images[:, 0, 0, 0].tolist()
                os._exit(0 if images == [10, 20, 30] else 1)
            finally:
                os._exit(2)
        twins.append(child)
    for _ in twins:
        os.read(told, 1)
    os.write(release, b"11")
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in twins] == [0, 0]
    for end in (told, tell, released, release):
        os.close(end)
    assert len(list(cache.iterdir())) == 1
    assert build_store(LISTING, render, verify=True, **WHERE).images[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_a_new_entry_that_another_process_moves_away_is_built_again(cache, monkeypatch):
    put, places = cache_module.put_in_place, []

    def moved_away(building, place, is_whole):
        put(building, place, is_whole)
        places.append(place)
        if len(places) < times:
            folders.remove(place)

    monkeypatch.setattr(cache_module, "put_in_place", moved_away)
    times = 2
    assert build_store(LISTING, render, **WHERE).images[:, 0, 0, 0].tolist() == [10, 20, 30]
    times = 9
    with pytest.raises(FileNotFoundError, match="no entry"):
        build_store(dataclasses.replace(LISTING, stamp="2"), render, **WHERE)
    assert len(places) == 4


def test_a_whole_entry_is_read_where_nothing_can_be_written(monkeypatch):
    build_store(LISTING, render, **WHERE)

    def refused(place):
        raise PermissionError(errno.EACCES, "Permission denied", str(place))

    monkeypatch.setattr(cache_module, "new_folder", refused)
    assert build_store(LISTING, render, verify=True, **WHERE).images[:, 0, 0, 0].tolist() == [10, 20, 30]
    with pytest.raises(
        OSError, match=r"made train: Permission denied: the cache cannot be written at .*EPISODIC_CACHE"
    ):
        build_store(dataclasses.replace(LISTING, stamp="2"), render, **WHERE)


@pytest.mark.parametrize("below", ["", "below", "below/it"])
def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "file" / below))
    with pytest.raises(
        OSError, match=r"^\[Errno \d+\] made train: Not a directory: the cache cannot be written at .*; set EP"
    ):
        build_store(LISTING, render, **WHERE)


def test_errors_that_are_not_about_the_cache_stay(cache):
    def lacking(listing, out):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/x.png")

    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '/data/x\.png'$"):
        build_store(LISTING, lacking, **WHERE)
    assert list(cache.iterdir()) == []


def test_no_home_folder(monkeypatch):
    for name in ("EPISODIC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match="no home folder for the cache: set EPISODIC_CACHE"):
        cache_dir()


def test_many_broken_images_are_left_out(monkeypatch):
    monkeypatch.setattr(cache_module, "CHUNK", 2)
    names = tuple("abcdefgh")
    items = [1, "broken", 3, 4, "broken", 6, 7, 8]
    listing = Listing(items, labels=[0] * 8, class_names=["a"], item_names=names, stamp="1")
    store = build_store(listing, render, corrupt="skip", verify=True, **WHERE)
    assert store.images[:, 0, 0, 0].tolist() == [1, 3, 4, 6, 7, 8]
    assert store.item_names == tuple("acdfgh")


@pytest.mark.parametrize("images", [np.full((1, 2, 2), 0.5), np.full((1, 2, 2), 7)])
def test_other_numbers_than_bytes_are_never_taken_for_bytes(tmp_path, images):
    told = f"images must be uint8 on the scale 0..255, got {images.dtype}"
    with (tmp_path / "images.npy").open("wb") as file, pytest.raises(TypeError, match=re.escape(told)):
        ImageFile(file, (3, 1, 2, 2))[0] = images
    out = np.zeros((2, 1, 2, 2), np.uint8)
    assert decode_parallel([0, 1], lambda item: images, out, title="made") == {0: told, 1: told}
