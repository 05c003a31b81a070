import itertools
import sys
import tarfile
import types
import typing

import pytest
from PIL import Image

from episodic.data.dataset import SPLITS
from episodic.data.sets import cub
from episodic.data.sets.cub import CUB, SplitName, class_ids

# Species with fewer than 60 images in CUB-200-2011.
FEWER = {
    3: 58, 5: 44, 6: 41, 7: 53, 8: 48, 9: 59, 12: 56, 15: 58, 16: 58, 17: 57, 18: 45, 19: 59, 20: 59, 22: 56, 23: 59,
    24: 52, 28: 59, 32: 53, 33: 59, 34: 59, 37: 59, 39: 59, 43: 59, 58: 58, 60: 59, 65: 50, 75: 57, 78: 59, 84: 53,
    97: 59, 101: 50, 105: 49, 107: 59, 113: 50, 115: 59, 117: 59, 119: 59, 124: 59, 125: 59, 126: 59, 135: 59, 141: 58,
    149: 59, 151: 51, 153: 59, 157: 59, 160: 59, 166: 59, 168: 59, 169: 59, 178: 56, 179: 59, 181: 59, 187: 50, 190: 58,
    196: 59,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def write(root, species=range(1, 201)):
    """A picture a species: a bird in the color (id, id, id) within a box, on white."""
    folder = root / "CUB_200_2011"
    images, boxes = [], []
    for n in species:
        name = f"{n:03}.Bird_{n}/Bird_{n}_0001_{n}.png"
        (folder / "images" / name).parent.mkdir(parents=True)
        picture = Image.new("RGB", (40, 30), "white")
        picture.paste((n, n, n), (8, 4, 24, 28))
        picture.save(folder / "images" / name)
        images.append(f"{len(images) + 1} {name}\n")
        boxes.append(f"{len(boxes) + 1} 8.0 4.0 16.0 24.0\n")
    (folder / "images.txt").write_text("".join(images))
    (folder / "bounding_boxes.txt").write_text("".join(boxes))
    return folder


def ids(store):
    return [int(name[:3]) for name in store.class_names]


@pytest.mark.parametrize(
    ("split_name", "classes", "images"),
    [
        ("closerlook", (100, 50, 50), (5885, 2950, 2953)),
        ("feat", (100, 50, 50), (5891, 2932, 2965)),
        ("triantafillou", (140, 30, 30), (8239, 1779, 1770)),
    ],
)
def test_lists(split_name, classes, images):
    lists = [class_ids(split_name, split) for split in SPLITS]
    assert tuple(map(len, lists)) == classes
    assert sorted(itertools.chain(*lists)) == list(range(1, 201))
    assert tuple(sum(FEWER.get(n, 60) for n in part) for part in lists) == images, "as published and recounted"


def test_closerlook_rule_by_hand():
    assert class_ids("closerlook", "train")[:4] == [1, 3, 5, 7]
    assert class_ids("closerlook", "val")[:3] == [2, 6, 10]
    assert class_ids("closerlook", "test")[:3] == [4, 8, 12]


def test_known_contamination_between_the_splits():
    test = set(class_ids("feat", "test"))
    assert len(test & set(class_ids("triantafillou", "train"))) == 36
    assert len(test & set(class_ids("closerlook", "train"))) == 23


@pytest.mark.parametrize("split_name", ["closerlook", "triantafillou"])
@pytest.mark.parametrize("place", ["", "cub", "CUB", "cubirds200"])
def test_images(tmp_path, split_name, place):
    write(tmp_path / place)
    for split in ("val", "test"):
        store = CUB(tmp_path, split_name).store(split)
        assert ids(store) == class_ids(split_name, split)
        assert store.images.shape == (len(ids(store)), 3, 84, 84)
        assert store.images[:, 0, 42, 34].tolist() == ids(store), "in the bird"
        assert (store.images[:, :, 0, 0] == 255).all(), "not cropped"
        assert (store.dataset, store.split_name) == ("cub", split_name)


def test_feat_is_cropped_to_the_bird(tmp_path):
    write(tmp_path)
    store = CUB(tmp_path, "feat", image_size=20).store("test")
    assert ids(store) == class_ids("feat", "test")
    for n, image in zip(ids(store), store.images, strict=True):
        assert (image == n).all()


def test_a_box_beyond_the_image_adds_no_margin(tmp_path):
    folder = write(tmp_path)
    lines = (folder / "bounding_boxes.txt").read_text().splitlines()
    n = class_ids("feat", "val")[0]
    Image.new("RGB", (40, 30), (n, n, n)).save(folder / "images" / f"{n:03}.Bird_{n}" / f"Bird_{n}_0001_{n}.png")
    lines[n - 1] = f"{n} 30.0 20.0 14.0 14.5"
    (folder / "bounding_boxes.txt").write_text("\n".join(lines))
    assert (CUB(tmp_path, "feat").store("val").images[0] == n).all()


def test_boxes_missing_or_broken(tmp_path):
    folder = write(tmp_path)
    lines = (folder / "bounding_boxes.txt").read_text().splitlines()
    n = class_ids("feat", "val")[0]
    (folder / "bounding_boxes.txt").write_text("\n".join(lines[: n - 1] + lines[n:]))
    with pytest.raises(ValueError, match=f"no box for 1 images, e.g. {n:03}.Bird_{n}/"):
        CUB(tmp_path, "feat").store("val")
    (folder / "bounding_boxes.txt").write_text("\n".join([*lines[:3], "4 1.0 2.0"]))
    with pytest.raises(ValueError, match=r"bounding_boxes\.txt, line 4: expected <id> <left> .*, got '4 1.0 2.0'"):
        CUB(tmp_path, "feat").store("val")
    (folder / "bounding_boxes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"bounding_boxes\.txt is missing: split_name=feat crops"):
        CUB(tmp_path, "feat").store("val")
    CUB(tmp_path, "closerlook").store("val")  # needs no boxes


def test_missing_species(tmp_path):
    write(tmp_path, [n for n in range(1, 201) if n != 6])
    with pytest.raises(ValueError, match=r"expected the 50 classes of the closerlook val split, got 49: 1 \(006\)"):
        CUB(tmp_path).store("val")


def test_archive(tmp_path):
    write(tmp_path / "made")
    with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "CUB_200_2011", "CUB_200_2011")
    assert ids(CUB(tmp_path).store("val")) == class_ids("closerlook", "val")


@pytest.mark.parametrize("split_name", typing.get_args(SplitName))
def test_corrupt_images(tmp_path, split_name):
    folder = write(tmp_path)
    n = class_ids(split_name, "val")[3]
    [path] = (folder / "images" / f"{n:03}.Bird_{n}").iterdir()
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=f"images cannot be read:\n  {n:03}.Bird_{n}/Bird_{n}_0001_{n}.png"):
        CUB(tmp_path, split_name).store("val")
    store = CUB(tmp_path, split_name, corrupt="skip").store("val")
    assert len(store) == len(store.class_names) - 1


def test_hidden_files_are_no_images(tmp_path):
    folder = write(tmp_path)
    (folder / "images" / "002.Bird_2" / "._Bird_2_0001_2.png").write_bytes(b"of macOS")
    assert len(CUB(tmp_path).store("val")) == 50


@pytest.mark.usefixtures("unchecked")
def test_unknown_split_and_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="must be one of closerlook, feat, triantafillou, got 'random'"):
        CUB(tmp_path, "random")
    with pytest.raises(FileNotFoundError, match=r"cub was not found.*\n  CUB_200_2011/ with images/"):
        CUB(tmp_path).store("val")


def test_download(tmp_path, monkeypatch):
    write(tmp_path / "made")
    module = types.ModuleType("learn2learn.vision.datasets.cu_birds200")
    module.ZENODO_URL = "there"

    def fetch(source, destination):
        assert source == "there"
        with tarfile.open(destination, "w") as tar:
            tar.add(tmp_path / "made" / "CUB_200_2011", "CUB_200_2011")

    module.download_file = fetch
    monkeypatch.setattr("importlib.import_module", {module.__name__: module}.__getitem__)
    with pytest.raises(
        ValueError, match=r"there sent a file with md5 [0-9a-f]{32}, expected 97eceeb196236b17998738112f37df78"
    ):
        CUB(tmp_path / "new", download=True).store("val")
    assert not list((tmp_path / "new").iterdir())

    class Right:
        hexdigest = staticmethod(lambda: cub.MD5)

    monkeypatch.setattr(cub.hashlib, "file_digest", lambda *_: Right())
    assert len(CUB(tmp_path / "new", download=True).store("val")) == 50
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["CUB_200_2011.tgz"]


def test_download_without_learn2learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.vision.datasets.cu_birds200", None)
    with pytest.raises(ImportError, match=r"^downloading .* needs learn2learn: pip install 'episodic\[learn2learn\]'"):
        CUB(tmp_path, download=True).store("val")
