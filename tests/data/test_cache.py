import dataclasses
import errno
import io

import numpy as np
import pytest

from episodic.data.cache import ImageFile, build_store, decode_parallel
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
