import json

import numpy as np
import pytest
from PIL import Image

from episodic.data.dataset import SPLITS
from episodic.data.sets.folder import Folder


@pytest.fixture
def birds(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "birds").mkdir()
    return tmp_path / "birds"


def write(path, red=0, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)


def stores(path, **settings):
    return [Folder(str(path), image_size=8, **settings).store(split) for split in SPLITS]


def read(path, split="train", **settings):
    return Folder(str(path), **settings).store(split)


def test_split_folders(birds):
    for i, split in enumerate(SPLITS):
        for j in range(2):
            for k in range(3):
                write(birds / split / f"{split}{j}" / f"{k}.png", red=10 * (2 * i + j))
    for i, store in enumerate(stores(birds)):
        assert (store.dataset, store.split_name) == ("birds", "folders")
        assert store.class_names == (f"{SPLITS[i]}0", f"{SPLITS[i]}1")
        assert store.images.shape == (6, 3, 8, 8)
        assert (store.images[:, 0, 0, 0] == 10 * (2 * i + store.labels)).all()
        assert store.item_names[0] == f"{SPLITS[i]}/{SPLITS[i]}0/0.png"


def test_nested_hidden_and_upper_case(birds):
    for split in SPLITS:
        write(birds / split / f"{split}-class" / "deep" / "down" / "1.PNG")
        write(birds / split / f"{split}-class" / "2.JPeG")
    write(birds / "train" / "train-class" / ".hidden.png")
    write(birds / "train" / "train-class" / ".git" / "3.png")
    write(birds / "train" / ".ipynb_checkpoints" / "4.png")
    train = stores(birds)[0]
    assert train.class_names == ("train-class",)
    assert train.item_names == ("train/train-class/2.JPeG", "train/train-class/deep/down/1.PNG")


def test_a_class_in_two_splits_is_refused(birds):
    for split in SPLITS:
        write(birds / split / split / "1.png")
        write(birds / split / "wren" / "1.png")
    with pytest.raises(ValueError, match=r"train and val share 1 classes, e\.g\. wren"):
        read(birds, "test")


@pytest.mark.parametrize("place", ["{image}", "images/{image}", "{label}/{image}", "images/{label}/{image}"])
@pytest.mark.parametrize("columns", ["filename,label", "class_name,image_name", "filename , label, concept_label"])
def test_csv(birds, place, columns):
    for i, split in enumerate(SPLITS):
        lines = [columns]
        for j in range(4):
            label, image = f"{split}{j // 2}", f"{split}{j}.png"
            write(birds / place.format(label=label, image=image), red=10 * i + j)
            lines.append(f"{label},{image}" if columns.startswith("class") else f"{image},{label},1,2")
        (birds / f"{split}.csv").write_text("\n".join(lines) + "\n\n")
    for i, store in enumerate(stores(birds)):
        assert store.split_name == "csv"
        assert store.class_names == (f"{SPLITS[i]}0", f"{SPLITS[i]}1")
        assert store.labels.tolist() == [0, 0, 1, 1]
        assert store.images[:, 0, 0, 0].tolist() == [10 * i + j for j in range(4)]


def test_csv_that_cannot_be_understood(birds):
    write(birds / "1.png")
    (birds / "train.csv").write_text("image;class\n1.png;a\n")
    with pytest.raises(ValueError, match=r"train\.csv: expected a header with the columns filename,label or"):
        read(birds)
    (birds / "train.csv").write_text("filename,label\n1.png\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 2: expected the columns filename,label, got \['1.png'\]"):
        read(birds)
    (birds / "train.csv").write_text("filename,label\n1.png,a\n1.png,a\n")
    with pytest.raises(ValueError, match=r"must be listed once, these are listed more often: 1 \(1\.png\)"):
        read(birds)
    (birds / "train.csv").write_text("filename,label\n1.png,a\n\n2.png,a\n")
    with pytest.raises(FileNotFoundError, match=r"train\.csv, line 4: there is no image 2\.png"):
        read(birds, corrupt="skip")


def test_closerlook_json(birds):
    for i, (split, name) in enumerate(zip(SPLITS, ("base", "val", "novel"), strict=True)):
        paths = [birds / "pictures" / f"{split}{j}.png" for j in range(4)]
        for j, path in enumerate(paths):
            write(path, red=10 * i + j)
        # The names of all classes stand in each file; paths are absolute.
        images = {"image_names": list(map(str, paths)), "image_labels": [2 * i] * 3 + [2 * i + 1]}
        content = {"label_names": list("abcdef"), **images}
        (birds / f"{name}.json").write_text(json.dumps(content))
    for i, store in enumerate(stores(birds)):
        assert store.split_name == "json"
        assert store.class_names == tuple("abcdef"[2 * i : 2 * i + 2])
        assert store.labels.tolist() == [0, 0, 0, 1]
        assert store.images[:, 0, 0, 0].tolist() == [10 * i + j for j in range(4)]


@pytest.mark.parametrize(("labels", "reason"), [(None, "TypeError"), ([], "ValueError"), ([-1], "KeyError: -1")])
def test_json_that_cannot_be_understood(birds, labels, reason):
    content = {"label_names": ["a"], "image_names": ["1.png"], "image_labels": labels}
    (birds / "base.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"base\.json: expected label_names, image_names .* \({reason}"):
        read(birds)


def test_open_metric_learning_table(birds):
    lines = ["label,path,split,is_query,is_gallery"]
    for i, split in enumerate(("train", "validation", "test")):
        write(birds / "images" / f"{i}.png", red=i)
        lines.append(f"{split}-class,images/{i}.png,{split},,")
    (birds / "df.csv").write_text("\n".join(lines))
    (birds / "attributes.csv").write_text("color,length\nred,3\n")
    for i, store in enumerate(stores(birds)):
        assert (store.split_name, store.images[:, 0, 0, 0].tolist()) == ("oml", [i])
    (birds / "df.csv").write_text("\n".join([*lines, "x,images/0.png,holdout,,"]))
    with pytest.raises(ValueError, match=r"df\.csv, line 5: split must be one of train, validation, val, test"):
        read(birds)


def write_classes(folder, n):
    for i in range(n):
        write(folder / f"{i:02}" / "1.png", red=i)


def test_random_split(birds):
    write_classes(birds, 25)
    (birds / "empty").mkdir()
    found = stores(birds)
    assert [len(store.class_names) for store in found] == [16, 4, 5]
    assert sorted(name for store in found for name in store.class_names) == [f"{i:02}" for i in range(25)]
    for store in found:
        assert store.split_name == "random-0"
        assert store.images[:, 0, 0, 0].tolist() == [int(name) for name in store.class_names]
    # The split of a seed must never change: runs are compared across versions of everything.
    assert found[1].class_names == ("02", "10", "16", "24")
    counts = [len(store.class_names) for store in stores(birds, fractions=[0.2, 0.48, 0.32])]
    assert counts == [5, 12, 8]
    message = r"its 25 classes \(00, 01, .*\) make splits of 24/0/1 .* change fractions"
    with pytest.raises(ValueError, match=message):
        read(birds, fractions=[0.96, 0.01, 0.03])
    others = stores(birds, seed=1)
    assert others[0].split_name == "random-1"
    assert {store.class_names for store in others}.isdisjoint({store.class_names for store in found})


def test_classes_with_the_name_of_a_split(birds):
    for name in ("train", "bus", "tank"):  # as in CIFAR-100
        write(birds / name / "1.png")
    settings = Folder(str(birds), fractions=(0.34, 0.33, 0.33))
    assert settings.split_name == "random-0"
    assert {settings.store(split).class_names for split in SPLITS} == {("train",), ("bus",), ("tank",)}


def test_nothing_there(birds, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder\. Set task\.dataset\.path to one of"):
        read(tmp_path / "nowhere")
    write(birds / "1.png")
    with pytest.raises(FileNotFoundError, match="birds has no folders with images"):
        read(birds)
    for split in ("train", "test"):
        write(birds / split / split / "1.png")
    with pytest.raises(FileNotFoundError, match=r"has no val images\. Expected one of these layouts"):
        read(birds, "val")


@pytest.mark.usefixtures("unchecked")
def test_settings_are_checked_at_once():
    with pytest.raises(ValueError, match="channels must be one of 1, 3, got 2"):
        read("anywhere", channels=2)
    with pytest.raises(ValueError, match="resize must be one of crop, squash, got 'stretch'"):
        read("anywhere", resize="stretch")
    for fractions in ((0.8, 0.2), (0.8, 0.2, 0.0), (0.8, 0.2, 0.2)):
        with pytest.raises(ValueError, match="three positive numbers that add up to 1"):
            read("anywhere", fractions=fractions)


def test_crop_squash_and_gray(birds):
    for split in SPLITS:
        path = birds / split / split / "1.png"
        path.parent.mkdir(parents=True)
        picture = np.zeros((10, 30, 3), np.uint8)
        picture[:, 8:22] = 200  # the center square and a little more
        Image.fromarray(picture).save(path)
    assert stores(birds)[0].images.float().mean() == 200
    squashed = stores(birds, resize="squash")[0].images.float().mean()
    assert squashed == pytest.approx(200 * 14 / 30, abs=3)
    gray = Folder(str(birds), image_size=8, channels=1)
    assert gray.store("train").images.shape == (1, 1, 8, 8)
    assert len(gray.mean) == len(gray.std) == 1


def test_corrupt_images(birds):
    for split in SPLITS:
        write(birds / split / split / "1.png")
        (birds / split / split / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be read:\n  val/val/2\.png"):
        read(birds, "val")
    assert stores(birds, corrupt="skip")[1].item_names == ("val/val/1.png",)
