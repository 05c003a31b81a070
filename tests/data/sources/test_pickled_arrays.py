import pickle

import numpy as np
import pytest

from episodic.data.sources.pickled_arrays import FUNCTIONS, NotPlainError, Unfinished

DTYPE = FUNCTIONS["numpy", "dtype"]
RECONSTRUCT = FUNCTIONS["numpy._core.multiarray", "_reconstruct"]
SCALAR = FUNCTIONS["numpy._core.multiarray", "scalar"]
FROM_BUFFER = FUNCTIONS["numpy._core.numeric", "_frombuffer"]


def rebuilt(array):
    """An array made again from what NumPy's `__reduce__` says of it."""
    state = array.__reduce__()[2]
    return RECONSTRUCT().finish(state)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([[None, [1]], ["a", (2,)]], dtype=object, order="F"),
        np.array("Köln"),
        np.zeros((3, 0)),
        np.ones((1,) * 64, np.uint8),
    ],
    ids=["big endian", "fortran", "objects", "text", "empty", "64 axes"],
)
def test_arrays_are_made_of_their_state(array):
    back = rebuilt(array)
    assert type(back) is np.ndarray
    assert back.dtype == pickle.loads(pickle.dumps(array)).dtype.newbyteorder("=")
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


def test_a_fortran_array_keeps_its_order():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert rebuilt(array).flags.f_contiguous


def test_buffers_are_made_with_their_order_of_axes():
    data, dtype = bytes(range(6)), np.dtype("u1")
    assert FROM_BUFFER(data, dtype, (2, 3), "C").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert FROM_BUFFER(data, dtype, (2, 3), "F").tolist() == [[0, 2, 4], [1, 3, 5]]
    assert FROM_BUFFER(data, dtype, (2, 3), "K", (1, 0)).tolist() == [[0, 3], [1, 4], [2, 5]]
    for order, axes in (("K", None), ("K", (0, 0)), ("K", (0,)), ("A", None), (None, None)):
        with pytest.raises(ValueError, match="no order of its axes"):
            FROM_BUFFER(data, dtype, (2, 3), order, axes)
    with pytest.raises(NotPlainError, match="in the place of bytes"):
        FROM_BUFFER(data, np.dtype(object), (6,), "C")


def test_scalars_have_exactly_their_bytes():
    assert SCALAR(np.dtype("<i8"), (7).to_bytes(8, "little")) == 7
    assert type(SCALAR(np.dtype("f4"), bytes(4))) is np.float32
    for data in (bytes(7), bytes(9), b"", [1]):
        with pytest.raises(ValueError, match="came with other data"):
            SCALAR(np.dtype("i8"), data)
    with pytest.raises(NotPlainError, match="scalar of dtype object"):
        SCALAR(np.dtype(object), [1])


@pytest.mark.parametrize(
    "spec", ["V8", "M8", "m8", "c16", "f16", "S0", "U0", "i3", "O3", "u1,u1", "(2,)u1", "i8\x00", 7]
)
def test_other_dtypes_are_refused(spec):
    with pytest.raises(NotPlainError, match="it holds an array of"):
        DTYPE(spec, False, True)


@pytest.mark.parametrize("spec", ["u1", "|b1", "<f2", ">i8", "S3", "<U5", b"u1", "?"])
def test_plain_dtypes_are_made_when_their_state_is_known(spec):
    unfinished = DTYPE(spec, False, True)
    assert type(unfinished) is Unfinished
    spec = spec.decode() if isinstance(spec, bytes) else spec
    assert unfinished.finish((3, "|", None, None, None, -1, -1, 0)) == np.dtype(spec)
    assert unfinished.finish((3, ">", None, None, None, -1, -1, 0)) == np.dtype(spec).newbyteorder(">")
    with pytest.raises(NotPlainError, match="structured"):
        unfinished.finish((3, "|", None, ("a",), {"a": 1}, -1, -1, 0))


@pytest.mark.parametrize("letter", [0x110000, 0xD800, 0xDFFF, 2**32 - 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_text_is_of_letters(letter, order):
    text = np.array([ord("a"), 0x10FFFF, 0xE000, letter], f"{order}u4")
    with pytest.raises(ValueError, match="no letters of Unicode"):
        FROM_BUFFER(text.tobytes(), np.dtype(f"{order}U2"), (2,), "C")
    assert FROM_BUFFER(text[:3].tobytes(), np.dtype(f"{order}U1"), (3,), "C").tolist() == [
        "a",
        chr(0x10FFFF),
        chr(0xE000),
    ]
