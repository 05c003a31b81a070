import io
import json
import os
import pickle
import sys
import types
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from episodic.data.sets import miniimagenet
from episodic.data.sets.miniimagenet import MiniImageNet

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
CLASSES = json.loads(files("episodic.data").joinpath("splits/miniimagenet.json").read_text())
VAL = CLASSES["val"]
EACH = 2  # images a class


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def pixels(name, number):
    """A colored gradient of its own for each image."""
    shade = np.linspace(0, 200, 84).astype(np.uint8)
    image = np.stack([np.tile(shade, (84, 1)), np.tile(shade[:, None], 84), np.zeros((84, 84), np.uint8)], axis=-1)
    image[..., 2] = (int(name[1:]) + 40 * number) % 256
    return image


def jpeg(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, "JPEG", quality=95)


def table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",".join(columns), *map(",".join, rows)]) + "\n")


def by_csv(folder, names=VAL, at="{split}.csv", split="val"):
    """Ravi and Larochelle's: one folder of images, `filename,label`."""
    rows = []
    for name in names:
        for number in range(EACH):
            rows.append((f"{name}{number:08}.jpg", name))
            jpeg(folder / "images" / rows[-1][0], pixels(name, number))
    table(folder / at.format(split=split), ("filename", "label"), rows[::-1])


def by_split_csv(folder, names=VAL):
    by_csv(folder, names, at="split/{split}.csv")


def by_easyfsl_csv(folder, names=VAL):
    rows = [(name, f"{name}_{number}.JPEG") for name in names for number in range(EACH)]
    for number, (name, file) in enumerate(rows):
        jpeg(folder / "images" / name / file, pixels(name, number % EACH))
    table(folder / "val.csv", ("class_name", "image_name"), rows)


def by_folders(folder, names=VAL):
    for name in names:
        for number in range(EACH):
            jpeg(folder / "val" / name / f"{number:08}.jpg", pixels(name, number))
        (folder / "val" / name / "._00000000.jpg").write_bytes(b"left by macOS")


def by_cache_pickle(folder, names=VAL, file="mini-imagenet-cache-val.pkl"):
    folder.mkdir(parents=True, exist_ok=True)
    data = np.stack([pixels(name, number) for number in range(EACH) for name in names])
    classes = {name: [i + number * len(names) for number in range(EACH)] for i, name in enumerate(names)}
    (folder / file).write_bytes(pickle.dumps({"image_data": data, "class_dict": classes}, protocol=2))


def by_learn2learns_pickle(folder, names=VAL):
    by_cache_pickle(folder, names, "mini-imagenet-cache-validation.pkl")


def by_category_pickle(folder, names=VAL):
    folder.mkdir(parents=True, exist_ok=True)
    data = np.stack([pixels(name, number) for name in names for number in range(EACH)])
    labels = [64 + i // EACH for i in range(len(data))]
    content = {"data": data, "labels": labels, "catname2label": {name: 64 + i for i, name in enumerate(names)}}
    (folder / "miniImageNet_category_split_val.pickle").write_bytes(pickle.dumps(content, protocol=2))


LAYOUTS = [
    by_csv,
    by_split_csv,
    by_easyfsl_csv,
    by_folders,
    by_cache_pickle,
    by_learn2learns_pickle,
    by_category_pickle,
]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\0" * len(text),
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace("0]", "1]", 1),
    ],
)
def test_the_index_of_a_pickle_heals(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))
    by_cache_pickle(tmp_path / "miniimagenet")
    whole = MiniImageNet(tmp_path).listing("val")
    [index] = (tmp_path / "cache" / "pickles").glob("*.json")
    text = index.read_text()
    assert damage(text) != text
    index.write_text(damage(text))
    assert MiniImageNet(tmp_path).listing("val") == whole
    assert index.read_text() == text


def test_the_classes_are_100():
    assert {split: len(CLASSES[split]) for split in ("train", "val", "test")} == {"train": 64, "val": 16, "test": 20}
    assert len({name for split in ("train", "val", "test") for name in CLASSES[split]}) == 100


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", miniimagenet.FOLDERS)
def test_each_layout_gives_the_same_images_in_the_same_order(tmp_path, layout, folder):
    layout(tmp_path / folder)
    store = MiniImageNet(tmp_path).store("val")
    assert store.class_names == tuple(VAL)
    assert store.labels.tolist() == [i // EACH for i in range(EACH * 16)]
    assert len(set(store.item_names)) == len(store)
    wanted = np.stack([pixels(name, number) for name in VAL for number in range(EACH)])
    difference = store.images.int() - torch.from_numpy(wanted).permute(0, 3, 1, 2).int()
    assert difference.abs().max() <= (0 if "pickle" in layout.__name__ else 12)


@pytest.mark.parametrize("layout", [by_csv, by_cache_pickle])
def test_other_sizes_are_squashed(tmp_path, layout):
    layout(tmp_path / "miniimagenet")
    jpeg(tmp_path / "miniimagenet" / "images" / f"{VAL[0]}00000000.jpg", pixels(VAL[0], 0)[:50])
    store = MiniImageNet(tmp_path, image_size=32).store("val")
    assert store.images.shape == (32, 3, 32, 32)
    assert store.images[2, 0, 16].diff().min() >= 0  # the gradient is there from end to end
    assert store.images[2, 0, 16, -1] > 190


def test_item_names_are_paths_below_the_folder(tmp_path):
    for layout in (by_cache_pickle, by_folders, by_csv):  # the later, the sooner it is taken
        layout(tmp_path / "miniimagenet")
        assert (
            MiniImageNet(tmp_path).store("val").item_names[1]
            == {
                by_cache_pickle: "mini-imagenet-cache-val.pkl#00016",
                by_folders: f"val/{VAL[0]}/00000001.jpg",
                by_csv: f"images/{VAL[0]}00000001.jpg",
            }[layout]
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_of_another_split_are_refused(tmp_path, layout):
    layout(tmp_path / "miniimagenet", [*VAL[1:], CLASSES["test"][0]])
    with pytest.raises(ValueError, match=rf"16 classes of Ravi .* extra: {CLASSES['test'][0]}; missing: {VAL[0]}"):
        MiniImageNet(tmp_path).store("val")


def test_without_wordnet_ids_the_number_of_classes_counts(tmp_path):
    def save(n_classes):
        content = {"data": np.zeros((n_classes, 84, 84, 3), np.uint8), "labels": list(range(64, 64 + n_classes))}
        (tmp_path / "miniimagenet").mkdir(exist_ok=True)
        file = tmp_path / "miniimagenet" / "miniImageNet_category_split_val.pickle"
        file.write_bytes(pickle.dumps(content))

    save(16)
    assert MiniImageNet(tmp_path).store("val").class_names[0] == "class064"
    save(15)
    with pytest.raises(ValueError, match=r"expected the 16 classes .* got 15"):
        MiniImageNet(tmp_path).store("val")


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_a_damaged_image_is_named_or_skipped(tmp_path, damage):
    by_csv(tmp_path / "miniimagenet")
    name = f"images/{VAL[3]}00000001.jpg"
    file = tmp_path / "miniimagenet" / name
    whole = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(whole[: len(whole) // 2 if damage == "truncated" else 0])
    with pytest.raises(ValueError, match=rf"val: 1 of 32 images cannot be read:\n  {name}: .*"):
        MiniImageNet(tmp_path).store("val")
    store = MiniImageNet(tmp_path, corrupt="skip").store("val")
    assert [skipped for skipped, _ in store.skipped] == [name]
    assert len(store) == 31
    assert Counter(store.labels.tolist())[3] == 1
    file.write_bytes(whole)
    assert len(MiniImageNet(tmp_path).store("val")) == 32


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    (tmp_path / "miniimagenet").mkdir()
    file = tmp_path / "miniimagenet" / "mini-imagenet-cache-val.pkl"
    file.write_bytes(pickle.dumps({"image_data": np.zeros((1, 84, 84, 3), np.uint8), "class_dict": Evil()}))
    with pytest.raises(ValueError, match=r"mini-imagenet-cache-val\.pkl is not plain data.*system"):
        MiniImageNet(tmp_path).store("val")
    assert not trace.exists()


def test_a_pickle_of_something_else_is_refused(tmp_path):
    file = tmp_path / "miniimagenet" / "mini-imagenet-cache-val.pkl"
    file.parent.mkdir()
    for content, message in (
        ({"x": 1}, r"expected the keys image_data and class_dict, or data and labels, got \{'x'\}"),
        ([1, 2], "got <class 'list'>"),
        ({"image_data": np.zeros((2, 84, 84, 3)), "class_dict": {}}, "expected uint8 .* got float64"),
        ({"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {VAL[0]: [2]}}, "and rows of it"),
    ):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            MiniImageNet(tmp_path).store("val")


def test_a_pickle_is_read_once(tmp_path, monkeypatch):
    by_cache_pickle(tmp_path / "miniimagenet")
    first = MiniImageNet(tmp_path).store("val")
    monkeypatch.setattr(miniimagenet, "load_arrays", lambda path: pytest.fail("read again"))
    assert torch.equal(MiniImageNet(tmp_path).store("val").images, first.images)


def test_a_missing_split_is_named_with_its_layouts(tmp_path):
    by_csv(tmp_path / "miniimagenet")
    with pytest.raises(
        FileNotFoundError, match=r"(?s)no test split.*test\.csv.*test/<class>.*download=true.*data_dir="
    ):
        MiniImageNet(tmp_path).store("test")
    with pytest.raises(FileNotFoundError, match=r"(?s)no train split.*train\.csv"):
        MiniImageNet(tmp_path / "nowhere").store("train")


def test_a_csv_without_its_images_leaves_room_for_other_layouts(tmp_path):
    table(tmp_path / "miniimagenet" / "val.csv", ("filename", "label"), [("a.jpg", VAL[0])])
    with pytest.raises(FileNotFoundError, match="no val split"):
        MiniImageNet(tmp_path).store("val")
    by_folders(tmp_path / "mini-imagenet")
    assert len(MiniImageNet(tmp_path).store("val")) == 32


def test_unknown_columns_are_named(tmp_path):
    table(tmp_path / "miniimagenet" / "val.csv", ("path", "label"), [("a.jpg", VAL[0])])
    with pytest.raises(
        ValueError, match=r"val\.csv: expected columns .*filename.*image_name.* got \['path', 'label'\]"
    ):
        MiniImageNet(tmp_path).store("val")


@pytest.fixture
def learn2learn(monkeypatch):
    """A stand-in that, as the real one, writes a file and unpickles it, and tries again on any `Exception`."""
    module = types.ModuleType("learn2learn.vision.datasets.mini_imagenet")
    module.pickle, module.content, module.modes = pickle, None, []

    def fetch(root, mode, download):
        assert download
        module.modes.append(mode)
        file = Path(root) / f"mini-imagenet-cache-{mode}.pkl"
        for _ in range(2):
            try:
                file.write_bytes(module.content)
                module.pickle.load(io.BytesIO(module.content))
            except module.pickle.UnpicklingError:
                raise
            except Exception:
                continue

    module.MiniImagenet = fetch
    for name in ("learn2learn", "learn2learn.vision", "learn2learn.vision.datasets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_missing_splits_are_downloaded_when_asked(tmp_path, learn2learn):
    by_learn2learns_pickle(tmp_path / "made")
    learn2learn.content = (tmp_path / "made" / "mini-imagenet-cache-validation.pkl").read_bytes()
    assert len(MiniImageNet(tmp_path / "data", download=True).store("val")) == 32
    assert len(MiniImageNet(tmp_path / "data", download=True).store("val")) == 32
    assert learn2learn.modes == ["validation"]
    assert learn2learn.pickle is pickle
    assert [file.name for file in (tmp_path / "data" / "miniimagenet").iterdir()] == [
        "mini-imagenet-cache-validation.pkl"
    ]


def test_a_download_is_never_unpickled_by_learn2learn(tmp_path, learn2learn):
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    for content, message in ((pickle.dumps(Evil()), "is not plain data"), (b"<html>", "perhaps a web page")):
        learn2learn.content = content
        with pytest.raises(ValueError, match=message):
            MiniImageNet(tmp_path, download=True).store("val")
        assert not trace.exists()
        assert not list((tmp_path / "miniimagenet").iterdir())


def test_the_download_says_how_to_get_learn2learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.vision.datasets.mini_imagenet", None)
    with pytest.raises(ImportError, match=r"^downloading .* needs learn2learn: pip install 'episodic\[learn2learn\]'"):
        MiniImageNet(tmp_path, download=True).store("val")


@pytest.mark.skipif(not (REAL / "miniimagenet").is_dir(), reason="needs miniImageNet in ../shared/data/miniimagenet")
@pytest.mark.realdata
def test_real_miniimagenet_has_the_published_counts():
    store = MiniImageNet(REAL).store("val")
    assert store.images.shape == (9600, 3, 84, 84)
    assert len(set(store.item_names)) == 9600
    assert Counter(store.labels.tolist()) == dict.fromkeys(range(16), 600)
    assert store.class_names == tuple(VAL)
    with Image.open(REAL / "miniimagenet" / store.item_names[4321]) as image:
        np.testing.assert_array_equal(store.images[4321].permute(1, 2, 0), np.asarray(image))
    # Near the training images' constants, as other classes of the same kind must be.
    some = store.images[::20].double() / 255
    assert torch.allclose(some.mean((0, 2, 3)), torch.tensor(MiniImageNet.mean).double(), atol=0.04)
    assert torch.allclose(some.transpose(0, 1).flatten(1).std(1), torch.tensor(MiniImageNet.std).double(), atol=0.03)
