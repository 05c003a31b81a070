import pickle

import numpy as np
import pytest
from PIL import Image

from episodic.data.dataset import SPLITS
from episodic.data.sets.fc100 import FC100
from episodic.data.sources.tables import class_lists

# By the ids of CIFAR-100's coarse labels, as in the authors' script and the paper's appendix.
COARSE = {"train": {1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19}, "val": {8, 11, 13, 16}, "test": {0, 7, 12, 14}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def test_super_classes_are_whole_and_in_one_split():
    lists = class_lists("fc100")
    names = sorted(group for split in SPLITS for group in lists[split])  # coarse labels are numbered alphabetically
    assert len(set(names)) == 20
    for split in SPLITS:
        assert {names.index(group) for group in lists[split]} == COARSE[split]
        assert [len(set(classes)) for classes in lists[split].values()] == [5] * len(lists[split])
    assert [len(FC100().classes(split)) for split in SPLITS] == [60, 20, 20]
    assert len({name for split in SPLITS for name in FC100().classes(split)}) == 100


def test_pickles(tmp_path):
    names = sorted(name for split in SPLITS for name in FC100().classes(split))
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    data = np.repeat(np.arange(100, dtype=np.uint8), 3072).reshape(100, 3072)
    for half in ("train", "test"):
        (folder / half).write_bytes(pickle.dumps({"data": data, "fine_labels": list(range(100))}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    for split, classes, groups in (("train", 60, 12), ("val", 20, 4), ("test", 20, 4)):
        store = FC100(tmp_path).store(split)
        assert store.images.shape == (classes * 2, 3, 32, 32)
        assert store.super_classes.bincount().tolist() == [5] * groups
        assert set(store.super_class_names) == set(class_lists("fc100")[split])
        for number, image in zip(store.labels, store.images, strict=True):
            name = store.class_names[number]
            assert names[image[0, 0, 0]] == name
            assert name in class_lists("fc100")[split][store.super_class_names[store.super_classes[number]]]
        assert (store.dataset, store.split_name) == ("fc100", "tadam")


def test_tree_and_missing_classes(tmp_path):
    for name in FC100().classes("val"):
        (tmp_path / "FC100" / "data" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "FC100" / "data" / name / "1.PNG")
    assert len(FC100(tmp_path).store("val")) == 20
    with pytest.raises(ValueError, match=r"test split: expected the 20 classes of FC100, got 0: 20 .*baby"):
        FC100(tmp_path).store("test")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="fc100 was not found"):
        FC100(tmp_path).store("train")
