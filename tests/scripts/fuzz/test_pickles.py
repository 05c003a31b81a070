import pickle

import numpy as np
import pytest

from episodic.data.sources.restricted_pickle import load_arrays


@pytest.fixture
def pickles(scripts):
    from fuzz import pickles

    return pickles


def test_the_layouts_load(pickles, tmp_path):
    for layout, stream in pickles.originals():
        assert pickles.outcome(tmp_path / "data.pkl", stream) == "loaded", layout
    layouts = pickle.loads(pickle.dumps(pickles.layouts(), 2))  # which makes the order of bytes the machine's
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(layouts, 2))
    back = load_arrays(tmp_path / "data.pkl")
    assert repr(back) == repr(layouts)
    np.testing.assert_array_equal(back["miniImageNet"]["image_data"], layouts["miniImageNet"]["image_data"])


def test_a_file_is_damaged_in_the_same_way_again(pickles):
    one, other = pickles.Damage(3), pickles.Damage(3)
    files = [one.file(i) for i in range(50)]
    assert [other.file(i) for i in reversed(range(50))] == files[::-1]
    assert len({data for _, data in files}) > 45
    assert pickles.Damage(4).file(0) != files[0]


def test_damaged_files_are_refused_or_loaded(pickles, capsys):
    assert pickles.main(["--count", "3000"]) == 0
    said = capsys.readouterr().out
    assert "3,000 files of at most about" in said
    assert " 0 failures" in said


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files(pickles, capsys):
    assert pickles.main(["--count", "100000", "--seed", "1"]) == 0, capsys.readouterr().out


def test_failures_are_counted(pickles, tmp_path, monkeypatch):
    """Neither other errors nor messages of many lines are an answer."""
    for error, found in ((MemoryError(), "MemoryError"), (ValueError("two\nlines"), "no clear line")):

        def fail(path, error=error):
            raise error

        monkeypatch.setattr(pickles, "load_arrays", fail)
        assert pickles.outcome(tmp_path / "data.pkl", b"") == found
