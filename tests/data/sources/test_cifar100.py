import io
import pickle
import tarfile

import numpy as np
import pytest
import torchvision
from PIL import Image

from episodic.data.dataset import SPLITS
from episodic.data.sets.cifarfs import CIFARFS
from episodic.data.sources.tables import class_lists

NAMES = sorted(name for split in SPLITS for name in class_lists("cifarfs")[split])  # CIFAR-100's fine labels, in order


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def write_pickles(folder, train=2, test=1):
    """CIFAR-100 as pickles, `train` + `test` images a class; a pixel is (class id, image, half)."""
    folder.mkdir(parents=True)
    for half, (name, n) in enumerate((("train", train), ("test", test))):
        labels = np.random.default_rng(half).permutation(np.repeat(np.arange(100), n))
        data = np.zeros((len(labels), 3, 32, 32), np.uint8)
        data[:, 0], data[:, 1], data[:, 2] = labels[:, None, None], np.arange(len(labels))[:, None, None] % 251, half
        content = {"data": data.reshape(-1, 3072), "fine_labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES}, protocol=2))


def write_tree(folder, names=NAMES):
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (NAMES.index(name), 0, 0)).save(folder / name / f"{name}_s_000001.png")


def assert_right(store, per_class):
    assert store.class_names == tuple(sorted(class_lists("cifarfs")[store.split]))
    assert store.labels.bincount().tolist() == [per_class] * len(store.class_names)
    assert len(set(store.item_names)) == len(store)
    assert [NAMES[i] for i in store.images[:, 0, 0, 0]] == [store.class_names[y] for y in store.labels]


def test_another_size_is_resized(tmp_path):
    write_pickles(tmp_path / "cifar-100-python", 1, 0)
    store = CIFARFS(tmp_path, image_size=20).store("val")
    assert store.images.shape == (16, 3, 20, 20)
    assert_right(store, per_class=1)


def test_archive_is_unpacked_once(tmp_path, monkeypatch):
    write_pickles(tmp_path / "made" / "cifar-100-python")
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-100-python", "cifar-100-python")
    assert_right(CIFARFS(tmp_path).store("val"), per_class=3)
    assert len(list((tmp_path / "cache" / "unpacked").iterdir())) == 1
    monkeypatch.setattr("tarfile.open", None)
    assert_right(CIFARFS(tmp_path).store("test"), per_class=3)


def test_archive_that_would_write_elsewhere(tmp_path):
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"), io.BytesIO())
    with pytest.raises(ValueError, match="cannot be unpacked"):
        CIFARFS(tmp_path).store("val")
    assert not list(tmp_path.rglob("outside"))
    assert not list((tmp_path / "cache" / "unpacked").iterdir())


def test_archive_cut_short(tmp_path):
    write_pickles(tmp_path / "made" / "cifar-100-python")
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-100-python", "cifar-100-python")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cifar-100-python\.tar\.gz cannot be unpacked .* get it again"):
        CIFARFS(tmp_path).store("val")


@pytest.mark.parametrize("name", ["cifarfs", "cifar-fs", "CIFAR-FS", "cifar100", "FC100"])
def test_tree(tmp_path, name):
    write_tree(tmp_path / name / "data")
    (tmp_path / name / "splits" / "bertinetto").mkdir(parents=True)
    lines = "\n".join(class_lists("cifarfs")["val"]) + "\n"
    (tmp_path / name / "splits" / "bertinetto" / "val.txt").write_text(lines)
    assert_right(CIFARFS(tmp_path).store("val"), per_class=1)
    assert_right(CIFARFS(tmp_path).store("test"), per_class=1)


def test_missing_classes_are_named(tmp_path):
    write_tree(tmp_path / "cifarfs" / "data", [name for name in NAMES if name not in ("sea", "lamp")])
    assert len(CIFARFS(tmp_path).store("test")) == 20
    with pytest.raises(ValueError, match=r"val split: expected the 16 classes .* got 14: 2 \(lamp, sea\) missing"):
        CIFARFS(tmp_path).store("val")


def test_corrupt_images(tmp_path):
    write_tree(tmp_path / "cifarfs" / "data")
    bad = tmp_path / "cifarfs" / "data" / "sea" / "sea_s_000002.png"
    bad.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 17 images cannot be read:\n  sea/sea_s_000002\.png"):
        CIFARFS(tmp_path).store("val")
    store = CIFARFS(tmp_path, corrupt="skip").store("val")
    assert [name for name, _ in store.skipped] == ["sea/sea_s_000002.png"]
    assert_right(store, per_class=1)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifarfs was not found.*\n  cifar-100-python/\{train,test,meta\}\n"):
        CIFARFS(tmp_path).store("train")


def test_download(tmp_path, monkeypatch):
    def fetch(root, download):
        assert download
        write_pickles(tmp_path / "data" / "cifar-100-python")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fetch)
    assert_right(CIFARFS(str(tmp_path / "data"), download=True).store("val"), per_class=3)
    assert_right(CIFARFS(str(tmp_path / "data"), download=True).store("test"), per_class=3)  # no second download


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 3072), np.uint8)}, "keys data and fine_labels, got"),
        ({"data": np.zeros((2, 3071), np.uint8), "fine_labels": [0, 1]}, r"expected uint8 \[N, 3072\]"),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 100]}, "N labels below 100"),
        ({"data": print, "fine_labels": []}, "not plain data"),
    ],
)
def test_pickles_of_something_else(tmp_path, content, message):
    write_pickles(tmp_path / "cifar-100-python")
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        CIFARFS(tmp_path).store("val")
