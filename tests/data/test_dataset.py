import numpy as np
import pytest

from episodic.data.cache import decode_parallel
from episodic.data.dataset import SPLITS, AbstractDataset, data_dir, find_root
from episodic.data.store import Listing


class Made(AbstractDataset):
    """Images of one gray value each; the first of each split cannot be read where `broken`."""

    name, split_name, channels, mean, std = "made", "up", 1, (0.5,), (0.25,)

    def __init__(self, image_size=4, broken=False, corrupt="error"):
        self.image_size, self.corrupt = image_size, corrupt
        self._broken = broken

    def listing(self, split):
        values = range(10 * SPLITS.index(split), 10 * SPLITS.index(split) + 4)
        return Listing(values, [0, 0, 1, 1], ["a", "b"], [f"{split}/{value}" for value in values], "1")

    def render(self, listing, out):
        def decode(value):
            if self._broken and value % 10 == 0:
                raise ValueError("no picture")
            return np.full(out.shape[1:], value, np.uint8)

        return decode_parallel(listing.items, decode, out, title="made")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def test_a_data_set_is_a_listing_and_a_way_to_render_it():
    store = Made().store("val")
    assert store.images.shape == (4, 1, 4, 4)
    assert store.images[:, 0, 0, 0].tolist() == [10, 11, 12, 13]
    assert (store.dataset, store.split, store.split_name) == ("made", "val", "up")
    assert store.labels.tolist() == [0, 0, 1, 1]


def test_a_split_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'valid'"):
        Made().store("valid")


def test_what_cannot_be_read_is_refused_or_left_out():
    with pytest.raises(ValueError, match=r"1 of 4 images cannot be read:\n  train/0: no picture"):
        Made(broken=True).store("train")
    assert Made(broken=True, corrupt="skip").store("train").skipped == (("train/0", "no picture"),)


def test_public_settings_decide_the_bytes_and_others_do_not():
    assert Made().key == Made(broken=True, corrupt="skip").key == "Made [('image_size', 4)]"
    assert Made(image_size=8).key != Made().key


def test_where_data_lie(tmp_path, monkeypatch):
    monkeypatch.delenv("EPISODIC_DATA", raising=False)
    assert data_dir() == tmp_path / "cache" / "data"
    monkeypatch.setenv("EPISODIC_DATA", str(tmp_path / "elsewhere"))
    assert data_dir() == tmp_path / "elsewhere"
    assert data_dir(tmp_path / "given") == tmp_path / "given"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_dir("~/birds") == tmp_path / "birds"


def test_the_first_folder_that_is_there_or_the_layout(tmp_path):
    (tmp_path / "second").mkdir()
    (tmp_path / "third").mkdir()
    assert find_root(tmp_path, ["first", "second", "third"], "made", "") == tmp_path / "second"
    with pytest.raises(
        FileNotFoundError, match=r"made was not found \(looked for .*none\).*\n  <class>/\nPoint data_dir="
    ):
        find_root(tmp_path, ["none"], "made", "  <class>/\n")
