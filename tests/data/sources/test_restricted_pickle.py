import collections
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from episodic.data.sources import pickle_reader
from episodic.data.sources.restricted_pickle import load_arrays
from tests.data.sources.hostile_pickles import HOSTILE

ARRAYS = {
    "images": np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(20)[::3],
    "big endian": np.arange(5, dtype=">i4"),
    "flags": np.array([True, False]),
    "half": np.ones(2, np.float16),
    "names": np.array(["cat", "Köln"]),
    "bytes": np.array([b"cat", b"horse"]),
    "none": np.zeros((0, 3), np.float32),
    "point": np.array(7),
}


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def save(path, value, protocol=2):
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data.pkl"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_as_they_were(file, name, protocol):
    array = ARRAYS[name]
    back = np.asarray(load_arrays(save(file, array, protocol)))
    assert type(back) is np.ndarray
    assert back.dtype == pickle.loads(pickle.dumps(array, protocol)).dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_as_it_was(file, protocol):
    data = {
        "class_dict": {"n01": [0, 1], "n02": [2]},
        b"labels": (1, 2.5, None, True),
        "text": ["ö", b"\xff\x00", 2**70],
    }
    assert load_arrays(save(file, data, protocol)) == data
    assert load_arrays(save(file, [np.int64(-3), np.float32(0.5)], protocol)) == [-3, 0.5]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_objects_hold_plain_data(file, protocol):
    array = np.array(["a", None, [1, 2], np.arange(3)], dtype=object)
    back = load_arrays(save(file, array, protocol))
    assert list(back[:3]) == ["a", None, [1, 2]]
    np.testing.assert_array_equal(back[3], np.arange(3))


def test_both_names_of_numpys_module_are_known(file):
    stream = pickle.dumps(ARRAYS["images"], 2)
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        old = stream.replace(b"numpy._core.multiarray", name).replace(b"numpy.core.multiarray", name)
        np.testing.assert_array_equal(load_arrays(save(file, old)), ARRAYS["images"])


def test_python_2_arrays_are_read(file):
    """The bytes that Python 2 wrote for `np.array([[0, 1, 2], [253, 254, 255]], 'u1')`: its str held the pixels."""
    stream = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x06\x00\x01\x02\xfd\xfe\xfftb."
    )
    back = load_arrays(save(file, stream))
    assert back.dtype == np.uint8
    assert back.tolist() == [[0, 1, 2], [253, 254, 255]]


def test_code_is_refused_and_not_run(file, tmp_path):
    trace = tmp_path / "trace"
    for value in (
        Call(os.system, f"touch {trace}"),
        {"image_data": ARRAYS["images"], "class_dict": {"n01": [Call(os.system, f"touch {trace}")]}},
        np.array([Call(os.mkdir, str(trace))], dtype=object),
    ):
        with pytest.raises(
            ValueError, match=r"data\.pkl is not plain data: it asks for 'posix\.(system|mkdir)"
        ) as error:
            load_arrays(save(file, value))
        assert "could run any code" in str(error.value)
        assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        Call(eval, "1 + 1"),
        Call(getattr, "text", "upper"),
        Call(np.load, "x.npy"),
        collections.OrderedDict(a=1),
        np.ma.masked_array([1, 2]),
        np.dtype("u1").type,
        b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.",
    ],
    ids=["eval", "getattr", "np.load", "OrderedDict", "masked array", "class", "dotted name"],
)
def test_anything_else_is_refused(file, value):
    with pytest.raises(ValueError, match="is not plain data: it asks for"):
        load_arrays(save(file, value, protocol=4))


def test_other_codecs_are_refused(file):
    stream = b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(ValueError, match="asks for the codec 'rot13'"):
        load_arrays(save(file, stream))


def test_structured_and_odd_dtypes_are_refused(file):
    with pytest.raises(ValueError, match="is not plain data: it holds an array of dtype"):
        load_arrays(save(file, np.zeros(2, "M8[s]")))
    with pytest.raises(ValueError, match="is not plain data: it holds a"):
        load_arrays(save(file, np.zeros(2, [("a", "u1")])))


@pytest.mark.parametrize("shape", [b"M\xe8\x03\x85", b"J\xff\xff\xff\xff\x85"], ids=["too large", "negative"])
@pytest.mark.parametrize("contents", ["bytes", "objects"])
def test_a_shape_that_does_not_fit_its_data_is_refused(file, shape, contents):
    """NumPy itself reads past the end of a list that is shorter than the stated shape."""
    array = np.arange(3, dtype=np.uint8) if contents == "bytes" else np.array([1, 2, 3], dtype=object)
    stream = pickle.dumps(array, 2)
    assert stream.count(b"K\x03\x85") == 1
    with pytest.raises(ValueError, match="an array"):
        load_arrays(save(file, stream.replace(b"K\x03\x85", shape)))


def test_bytes_do_not_become_pointers(file):
    stream = pickle.dumps(np.zeros(1, np.int64), 2).replace(b"X\x02\x00\x00\x00i8", b"X\x02\x00\x00\x00O8")
    with pytest.raises(ValueError, match="came with other data"):
        load_arrays(save(file, stream))


CASES = [(name, said, stream) for said, cases in HOSTILE.items() for name, stream in cases.items()]


@pytest.mark.parametrize(("said", "stream"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_files_that_were_made_to_do_harm_are_refused_in_one_line(file, said, stream, monkeypatch):
    monkeypatch.setattr(pickle_reader, "_FREE", 1 << 16)  # so that small files will do
    with pytest.raises(ValueError, match=said) as error:
        load_arrays(save(file, stream))
    assert str(error.value).startswith(f"{file} ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(file)) + 600


@pytest.mark.parametrize(
    "name", ["memo index in text", "long bytes", "one text encoded 200 times", "dicts of one entry"]
)
def test_a_small_file_takes_little_memory(file, name, monkeypatch):
    monkeypatch.setattr(pickle_reader, "_FREE", 1 << 16)
    stream = next(stream for found, _, stream in CASES if found == name)
    save(file, stream)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"data\.pkl"):
        load_arrays(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * len(stream) + (1 << 20)


def test_large_arrays_lie_in_the_bytes_that_were_read(file):
    """They are not copied, and nobody can change them."""
    save(file, {"image_data": np.zeros(1 << 24, np.uint8)}, protocol=4)
    tracemalloc.start()
    back = load_arrays(file)["image_data"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * (1 << 24)
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1


@pytest.mark.parametrize("protocol", [2, 5])  # in protocol 5, as a bytearray
@pytest.mark.parametrize("name", ["images", "objects"])
def test_arrays_are_read_only(file, name, protocol):
    array = np.array(["a", None], dtype=object) if name == "objects" else ARRAYS[name]
    assert not load_arrays(save(file, array, protocol)).flags.writeable


def test_a_name_with_escapes_is_shown_escaped(file):
    with pytest.raises(ValueError, match=r"asks for '\\x1b\[31m\.red'\."):
        load_arrays(save(file, b"c\x1b[31m\nred\n."))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_is_cut_short_is_named(file, protocol):
    stream = pickle.dumps({"data": ARRAYS["images"], "labels": [0, 1]}, protocol)
    for length in range(0, len(stream) - 1, 7):
        with pytest.raises(ValueError, match=r"data\.pkl cannot be read as a pickle.*delete it and get it again"):
            load_arrays(save(file, stream[:length]))


def test_a_web_page_is_no_pickle(file):
    with pytest.raises(ValueError, match="perhaps a web page"):
        load_arrays(save(file, b"<!DOCTYPE html><html>Quota exceeded</html>"))


def test_a_missing_file_is_missing(file):
    with pytest.raises(FileNotFoundError):
        load_arrays(file)
