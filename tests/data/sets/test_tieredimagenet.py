import io
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodic.data.dataset import SPLITS
from episodic.data.sets.tieredimagenet import TieredImageNet, _classes
from episodic.data.sources.tables import class_lists

COUNTS = {"train": (351, 20), "val": (97, 6), "test": (160, 8)}
VAL = sorted(_classes("val")[0])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def picture(number, size=(84, 84)) -> Image.Image:
    """Red says which class it is."""
    return Image.new("RGB", size, (number, 10, 20))


def png(number) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "png")
    return file.getvalue()


def write_labels(folder, split="val", per_class=1):
    """Ren's `{split}_labels.pkl`, with classes in an order of its own; returns the class of each image."""
    folder.mkdir(parents=True, exist_ok=True)
    categories, wnids = _classes(split)
    names = list(reversed(list(wnids)))
    general = sorted(set(categories.values()))
    labels = np.repeat(np.arange(len(names), dtype=np.int32), per_class)
    content = {
        "label_specific": labels,
        "label_general": np.zeros_like(labels),
        "label_specific_str": names,
        "label_general_str": general,
    }
    (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return [sorted(categories).index(wnids[names[y]]) for y in labels]


def assert_right(store, per_class=1):
    assert store.class_names == tuple(sorted(_classes(store.split)[0]))
    assert store.labels.bincount().tolist() == [per_class] * len(store.class_names)
    assert store.images[:, 0, 5, 5].tolist() == store.labels.tolist()
    assert (store.images[:, 1] == 10).all()
    assert (store.images[:, 2] == 20).all()
    assert len(store.super_class_names) == COUNTS[store.split][1]
    above = {c: store.super_class_names[g] for c, g in zip(store.class_names, store.super_classes, strict=True)}
    assert above == _classes(store.split)[0]


def test_lists():
    lists = class_lists("tieredimagenet")
    for split, (classes, categories) in COUNTS.items():
        assert (len(_classes(split)[0]), len(lists[split])) == (classes, categories)
        assert len(_classes(split)[1]) == classes, "names tell the classes of a split apart"
    ids = [entry.split()[0] for split in SPLITS for group in lists[split].values() for entry in group]
    assert len(ids) == len(set(ids)) == 608
    assert len({group.split()[0] for split in SPLITS for group in lists[split]}) == 34
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in ids)
    assert _classes("train")[0]["n02012849"] == "aquatic bird", "the crane that is a bird"


@pytest.mark.parametrize("name", ["tieredimagenet", "tiered-imagenet", "tieredImageNet", "tiered_imagenet"])
def test_folders(tmp_path, name):
    for i, wnid in enumerate(VAL):
        (tmp_path / name / "val" / wnid).mkdir(parents=True)
        picture(i, (60, 50)).save(tmp_path / name / "val" / wnid / f"{wnid}_1.JPEG", quality=100, subsampling=0)
    # Ren's list of classes and categories has the name of a table of images, and no header.
    (tmp_path / name / "val.csv").write_text("n02099267,n02098550\n")
    store = TieredImageNet(tmp_path).store("val")
    assert (store.dataset, store.split_name) == ("tieredimagenet", "ren")
    assert store.images.shape == (97, 3, 84, 84)
    assert store.item_names[0] == f"val/{VAL[0]}/{VAL[0]}_1.JPEG"
    assert (store.images[:, 0, 5, 5].int() - store.labels).abs().max() <= 2  # JPEG


@pytest.mark.parametrize("in_class_folders", [False, True])
def test_csv(tmp_path, in_class_folders):
    folder = tmp_path / "tieredimagenet"
    lines = ["filename,label"]
    for i, wnid in enumerate(VAL):
        path = folder / "images" / (wnid if in_class_folders else "") / f"{wnid}0001.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
        lines.append(f"{path.name},{wnid}")
    (folder / "val.csv").write_text("\n".join(lines))
    assert_right(TieredImageNet(tmp_path).store("val"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"val\.csv, line 98: there is no image {path.name}"):
        TieredImageNet(tmp_path).store("val")


@pytest.mark.parametrize("form", ["columns", "rows", "bytes"])
def test_pickles(tmp_path, form):
    numbers = write_labels(tmp_path / "tiered-imagenet", per_class=2)
    arrays = [np.frombuffer(png(i), np.uint8) for i in numbers]  # OpenCV gave [n, 1], later versions [n]
    images = {"columns": [a[:, None] for a in arrays], "rows": arrays, "bytes": [a.tobytes() for a in arrays]}[form]
    (tmp_path / "tiered-imagenet" / "val_images_png.pkl").write_bytes(pickle.dumps(images, protocol=2))
    store = TieredImageNet(tmp_path).store("val")
    assert_right(store, per_class=2)
    assert len(set(store.item_names)) == len(store)


def test_unpacked_arrays_are_blue_first(tmp_path):
    numbers = write_labels(tmp_path / "tiered-imagenet")
    images = np.stack([np.asarray(picture(i))[..., ::-1] for i in numbers])
    np.savez(tmp_path / "tiered-imagenet" / "val_images.npz", images=images)
    assert_right(TieredImageNet(tmp_path).store("val"))
    assert TieredImageNet(tmp_path, image_size=32).store("val").images.shape == (97, 3, 32, 32)
    np.savez(tmp_path / "tiered-imagenet" / "val_images.npz", images=images / 255)
    with pytest.raises(ValueError, match=r"val_images\.npz: expected images as uint8 .* got float64 \[97, 84, 84, 3\]"):
        TieredImageNet(tmp_path).store("val")


def test_all_layouts_have_the_same_classes(tmp_path):
    numbers = write_labels(tmp_path / "a" / "tiered-imagenet")
    (tmp_path / "a" / "tiered-imagenet" / "val_images_png.pkl").write_bytes(pickle.dumps([png(i) for i in numbers]))
    for wnid in VAL:
        (tmp_path / "b" / "tieredimagenet" / "val" / wnid).mkdir(parents=True)
        picture(0).save(tmp_path / "b" / "tieredimagenet" / "val" / wnid / "1.png")
    assert len({TieredImageNet(tmp_path / name).store("val").class_hash for name in "ab"}) == 1


def test_pickles_that_do_not_fit(tmp_path):
    folder = tmp_path / "tiered-imagenet"
    write_labels(folder)
    (folder / "val_images_png.pkl").write_bytes(pickle.dumps([png(0)]))
    with pytest.raises(ValueError, match=r"val_images_png\.pkl: expected 97 images, .* got 1"):
        TieredImageNet(tmp_path).store("val")
    (folder / "val_labels.pkl").write_bytes(pickle.dumps({"label_specific": [0]}))
    with pytest.raises(ValueError, match=r"val_labels\.pkl: expected a dict"):
        TieredImageNet(tmp_path).store("val")
    (folder / "val_labels.pkl").write_bytes(pickle.dumps({"label_specific": [1], "label_specific_str": ["crane"]}))
    with pytest.raises(ValueError, match="label_specific goes beyond the 1 names"):
        TieredImageNet(tmp_path).store("val")
    (folder / "val_labels.pkl").write_bytes(pickle.dumps({"label_specific": [0], "label_specific_str": ["unicorn"]}))
    with pytest.raises(
        ValueError, match=r"expected the 97 classes of tieredImageNet, got 1: .* 1 \(unicorn\) too many"
    ):
        TieredImageNet(tmp_path).store("val")


def test_classes_of_another_split_are_refused(tmp_path):
    for wnid in [*VAL[1:], "n01530575"]:
        (tmp_path / "tieredimagenet" / "val" / wnid).mkdir(parents=True)
        picture(0).save(tmp_path / "tieredimagenet" / "val" / wnid / "1.png")
    with pytest.raises(ValueError, match=rf"1 \({VAL[0]}\) missing, 1 \(n01530575\) too many"):
        TieredImageNet(tmp_path).store("val")


def test_corrupt_images(tmp_path):
    numbers = write_labels(tmp_path / "tiered-imagenet", per_class=2)
    images = [png(i) for i in numbers]
    images[7] = images[7][:40]
    (tmp_path / "tiered-imagenet" / "val_images_png.pkl").write_bytes(pickle.dumps(images))
    with pytest.raises(ValueError, match=r"1 of 194 images cannot be read:\n  val_images_png\.pkl#000007"):
        TieredImageNet(tmp_path).store("val")
    store = TieredImageNet(tmp_path, corrupt="skip").store("val")
    assert len(store) == 193
    assert store.images[:, 0, 5, 5].tolist() == store.labels.tolist()


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no val split on disk.*\n  val/<WordNet id>/<image>\.jpg\n"):
        TieredImageNet(tmp_path).store("val")


def test_download(tmp_path, monkeypatch):
    class Module(types.ModuleType):
        class TieredImagenet:
            def download(self, file_id, destination):
                folder = Path(destination) / "tiered-imagenet"
                images = [png(i) for i in write_labels(folder)]
                (folder / "val_images_png.pkl").write_bytes(pickle.dumps(images))

    name = "learn2learn.vision.datasets.tiered_imagenet"
    monkeypatch.setitem(sys.modules, name, Module(name))
    monkeypatch.setattr("importlib.import_module", sys.modules.__getitem__)
    assert_right(TieredImageNet(tmp_path / "new", download=True).store("val"))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tiered-imagenet"]


def test_download_without_learn2learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.vision.datasets.tiered_imagenet", None)
    with pytest.raises(ImportError, match=r"^downloading .* needs learn2learn: pip install 'episodic\[learn2learn\]'"):
        TieredImageNet(tmp_path, download=True).store("val")
