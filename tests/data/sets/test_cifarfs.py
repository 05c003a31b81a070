import pytest

from episodic.data.dataset import SPLITS
from episodic.data.sets.cifarfs import CIFARFS
from episodic.data.sets.fc100 import FC100
from episodic.data.sources.tables import class_lists
from tests.data.sources.test_cifar100 import NAMES, assert_right, write_pickles, write_tree


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def test_lists_are_a_split_of_cifar100():
    lists = class_lists("cifarfs")
    assert [len(lists[split]) for split in SPLITS] == [64, 16, 20]
    assert len(NAMES) == len(set(NAMES)) == 100
    assert sorted(NAMES) == sorted(name for split in SPLITS for name in FC100().classes(split))
    # The sheet's spot checks: fine labels are the alphabetical order.
    assert NAMES[:5] == ["apple", "aquarium_fish", "baby", "bear", "beaver"]
    assert {"apple", "wolf"} <= set(lists["train"])
    assert {"beaver", "tractor"} <= set(lists["val"])
    assert {"baby", "worm"} <= set(lists["test"])


@pytest.mark.parametrize("place", ["cifar-100-python", "cifar100/cifar-100-python"])
def test_pickles_pool_both_halves(tmp_path, place):
    write_pickles(tmp_path / place)
    for split, classes in zip(SPLITS, (64, 16, 20), strict=True):
        store = CIFARFS(tmp_path).store(split)
        assert_right(store, per_class=3)
        assert store.images.shape == (classes * 3, 3, 32, 32)
        assert store.images[:, 2, 0, 0].bincount().tolist() == [2 * classes, classes]
        assert (store.dataset, store.split_name) == ("cifarfs", "bertinetto")


def test_super_classes_are_the_coarse_labels(tmp_path):
    write_pickles(tmp_path / "cifar-100-python", 1, 0)
    store = CIFARFS(tmp_path).store("test")
    above = {c: store.super_class_names[g] for c, g in zip(store.class_names, store.super_classes, strict=True)}
    assert above["worm"] == "non-insect_invertebrates"
    assert {c for c, g in above.items() if g == "people"} == {"baby", "man", "woman"}


def test_other_split_files_are_refused(tmp_path):
    write_tree(tmp_path / "cifarfs" / "data")
    (tmp_path / "cifarfs" / "splits" / "bertinetto").mkdir(parents=True)
    (tmp_path / "cifarfs" / "splits" / "bertinetto" / "val.txt").write_text("apple\nbeaver\n")
    with pytest.raises(ValueError, match=r"val\.txt: expected the 16 classes of CIFAR-FS, got 2: 15 .* 1 \(apple\)"):
        CIFARFS(tmp_path).store("val")
