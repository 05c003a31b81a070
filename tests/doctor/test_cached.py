"""Damage in the cache, and files that were changed beneath it, are found by the doctor."""

import errno
import os

import numpy as np
import pytest

from episodic.data.sets.folder import Folder
from episodic.doctor import cached
from episodic.doctor.cached import check_cache
from tests.doctor.examining import examined, picture


@pytest.fixture
def dataset(birds):
    """The folder of birds as a data set, and all its splits in the cache."""
    folder = Folder(birds, image_size=32, corrupt="skip")
    for split in ("train", "val", "test"):
        folder.store(split)
    return folder


def entry(tmp_path, split):
    [folder] = (tmp_path / "cache" / "stores").glob(f"*-{split}-*")
    return folder


def change(path, seed):
    """Put another picture in the place of one, of the same size and time."""
    before = path.stat()
    picture(seed).save(path)
    data = path.read_bytes().ljust(before.st_size, b"\0")
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def pad(path, size):
    """Bytes after its end do not change a picture."""
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))


def test_a_clean_cache_is_ok(dataset):
    findings = list(check_cache(dataset, sources=True))
    assert {finding.mark for finding in findings} == {"ok"}
    assert [finding.text for finding in findings][:2] == [
        "train: the checksums of all 0.1 MB of its images in the cache are right",
        "train: the cache has the images of its files",
    ]
    assert len(findings) == 6
    assert len(list(check_cache(dataset, sources=False))) == 3


def test_damage_inside_the_images_is_mended(birds, tmp_path, capsys):
    assert examined(birds) == {}
    file = entry(tmp_path, "val") / "images.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:500] + b"\xff\x00\xff" + whole[503:])
    [(mark, text, _)] = examined(birds)["cache"]
    assert mark == "warning"
    assert text.startswith("val: the cache was damaged (1 of 1 pages of ")
    assert "Note: my birds, {1} val: the cache is damaged (1 of 1 pages" in capsys.readouterr().out
    assert file.read_bytes() == whole
    assert examined(birds) == {}


def test_files_that_changed_beneath_the_cache_are_named(birds, tmp_path):
    chosen = [birds / name for name in ("train/train1/2.png", "test/test3/0.png", "test/test3/5.png")]
    for path in chosen:
        pad(path, 20_000)
    assert examined(birds) == {}
    change(chosen[0], seed=1000)
    change(chosen[1], seed=1001)
    status = chosen[2].stat()
    chosen[2].write_bytes(b"x" * 20_000)
    os.utime(chosen[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    found = examined(birds, code=1)
    assert found.keys() == {"cache"}
    (mark, text, items), (_, _, tests) = found["cache"]
    assert mark == "error"
    assert text.startswith(
        "train: 1 images in the cache are not those of their files now, which kept size and time: remove "
    )
    assert str(entry(tmp_path, "train")) in text
    assert [(item["split"], item["class"], item["image"]) for item in items] == [
        ("train", "train1", "train/train1/2.png")
    ]
    assert items[0]["now"].startswith("differs by up to ")
    assert [item["image"] for item in tests] == ["test/test3/0.png", "test/test3/5.png"]
    assert tests[1]["now"].startswith("cannot be read: ")
    assert examined(birds, "sources=false") == {}


def test_images_that_were_left_out_do_not_shift_the_others(birds, tmp_path):
    (birds / "train" / "train0" / "1.png").write_text("no picture")
    pad(birds / "train" / "train2" / "4.png", 20_000)
    options = ["task.dataset.corrupt=skip"]
    assert examined(birds, *options).keys() == {"files"}
    change(birds / "train" / "train2" / "4.png", seed=1000)
    [(_, _, items)] = examined(birds, *options, code=1)["cache"]
    assert [item["image"] for item in items] == ["train/train2/4.png"]


def test_a_cache_that_cannot_be_mended_is_an_error(dataset, tmp_path, monkeypatch):
    os.truncate(entry(tmp_path, "train") / "images.npy", 9)
    monkeypatch.setattr("episodic.data.cache.new_folder", refused)
    first, *_ = check_cache(dataset, sources=True)
    assert first.mark == "error"
    assert "images.npy has 9 bytes" in first.text
    assert "cannot be written anew" in first.text
    assert "set EPISODIC_CACHE to a folder that can" in first.text


def refused(*place, **named):
    raise PermissionError(errno.EACCES, "Permission denied", str(*place, *named.values()))


def test_no_room_to_compare_is_a_warning(dataset, monkeypatch):
    monkeypatch.setattr(cached.tempfile, "TemporaryFile", refused)
    compared = [finding for finding in check_cache(dataset, sources=True) if "compared" in finding.text]
    assert [finding.mark for finding in compared] == ["warning"] * 3


def test_what_is_not_in_the_cache_is_neither_built_nor_compared(birds, tmp_path):
    findings = list(check_cache(Folder(birds, image_size=32), sources=True))
    assert [finding.text.split(": ")[1] for finding in findings] == [
        "not in the cache yet, so its images are decoded now"
    ] * 3
    assert not (tmp_path / "cache").exists()


def test_more_images_than_are_compared_at_once(dataset, birds, monkeypatch):
    monkeypatch.setattr(cached, "CHUNK", 5)
    listing = dataset.listing("train")
    images = dataset.store("train").images.numpy().copy()
    images[[3, 4, 17]] ^= np.uint8(255)
    assert list(cached.changed_images(dataset, listing, birds, images, {})) == [3, 4, 17]
