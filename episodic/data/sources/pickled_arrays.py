"""The few functions that pickles of NumPy arrays call, written so that no bytes of a file are ever trusted.

NumPy's own functions believe the sizes that a pickle states, and change an array that is already in use when a pickle says so. Here
every array is made once, when its shape, its dtype and its bytes are known and fit each other.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}|\?|O[48]?)")
_MOST_AXES = 64  # of an array of NumPy 2
_MOST_ROWS = 1 << 24  # that an array without bytes may state: reading one should not begin a loop without end


class NotPlainError(Exception):
    """A pickle asks for something that is not plain data."""


class Unfinished:
    """What a pickle has named and not yet described. `finish(state)` makes the value, and is called once."""

    __slots__ = ("finish", "value")

    def __init__(self, finish: Callable[[Any], Any]):
        self.finish = finish
        self.value = None


def _dtype(spec: Any, *_: Any) -> Unfinished:
    spec = spec.decode("latin1") if isinstance(spec, bytes) else spec
    if not isinstance(spec, str):
        raise NotPlainError("it holds an array of structured dtype")
    if not _PLAIN_DTYPE.fullmatch(spec):
        raise NotPlainError(f"it holds an array of dtype {ascii(spec)[:80]}")
    return Unfinished(functools.partial(_in_order, np.dtype(object if "O" in spec else spec)))


def _in_order(dtype: np.dtype, state: Any) -> np.dtype:
    """A dtype with the byte order of its state, which may say nothing else."""
    if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
        raise NotPlainError("it holds a structured array")
    order = state[1]
    if order not in ("<", ">", "|", "="):
        raise ValueError("a dtype states no byte order")
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype


def _reconstruct(*_: Any) -> Unfinished:
    return Unfinished(_described)


def _described(state: Any) -> np.ndarray:
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise ValueError("an array came without its shape, dtype and data")
    shape, dtype, fortran, data = state[-4:]
    array = _array(shape, dtype, data, "F" if fortran is True or fortran == 1 else "C")
    # As NumPy does here, and not in `_frombuffer`.
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
        array.flags.writeable = False
    return array


def _array(shape: Any, dtype: Any, data: Any, order: str) -> np.ndarray:
    """A read-only array of bytes, or of the objects of a list, that have exactly the stated size."""
    if not isinstance(dtype, np.dtype):
        raise NotPlainError("it holds an array without a dtype")
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array states no shape of up to {_MOST_AXES} sides")
    data = data.encode("latin1") if isinstance(data, str) else data  # the bytes of a Python 2 pickle
    count = math.prod(shape)
    fits = isinstance(data, list) if dtype.hasobject else isinstance(data, bytes | bytearray)
    if not fits or len(data) != count * (1 if dtype.hasobject else dtype.itemsize):
        raise ValueError(f"an array of shape {shape} and dtype {dtype} came with other data")
    if not count and math.prod(n for n in shape if n) > _MOST_ROWS:
        raise ValueError(f"an array of shape {shape} came without data")
    if dtype.hasobject:
        array = np.fromiter(data, object, count).reshape(shape)  # NumPy lists objects by rows, whatever their order
    else:
        _check_values(dtype, data)
        array = np.ndarray(shape, dtype, data, order=order)
    array.flags.writeable = False
    return array


def _check_values(dtype: np.dtype, data: bytes | bytearray) -> None:
    """Not all bytes are a truth value or text, and NumPy miscounts those that are not."""
    if dtype.kind == "b" and data and np.frombuffer(data, np.uint8).max() > 1:
        raise ValueError("an array of truth values holds bytes other than 0 and 1")
    if dtype.kind == "U" and data:
        letters = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.max() > 0x10FFFF or (letters >> 11 == 0xD800 >> 11).any():
            raise ValueError("an array of text holds numbers that are no letters of Unicode")


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if isinstance(dtype, np.dtype) and dtype.hasobject:
        raise NotPlainError("it holds objects in the place of bytes")
    if order in ("C", "F"):
        return _array(shape, dtype, buffer, order)
    array = _array(shape, dtype, buffer, "C")
    if order != "K" or not isinstance(axes, tuple) or sorted(axes) != list(range(array.ndim)):
        raise ValueError("an array states no order of its axes")
    return array.transpose(axes)


def _scalar(dtype: Any, data: Any) -> Any:
    if isinstance(dtype, np.dtype) and dtype.hasobject:
        raise NotPlainError("it holds a scalar of dtype object")
    return _array((), dtype, data, "C")[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocols 0 to 2 spell bytes; no other codec, since `codecs.encode` knows some that do more."""
    if encoding not in ("latin1", "latin-1"):
        raise NotPlainError(
            f"it asks for the codec {ascii(encoding)[:80] if isinstance(encoding, str) else 'of a number'}"
        )
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""


def _bytearray(data: Any = b"") -> bytearray:
    """How protocols 0 to 4 spell a bytearray."""
    if not isinstance(data, bytes):
        raise NotPlainError("it asks for a bytearray of something other than bytes")
    return bytearray(data)


def _ndarray(*_: Any) -> None:
    raise NotPlainError("it makes an array in an unusual way")


# NumPy 2 renamed numpy.core to numpy._core; files of both kinds are about.
FUNCTIONS: dict[tuple[str, str], Callable] = {
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _bytes,  # how protocols 0 to 2 spell b""
    ("__builtin__", "bytearray"): _bytearray,
    ("builtins", "bytearray"): _bytearray,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _ndarray,  # named as the first argument of _reconstruct, which ignores it
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _from_buffer),
    )
}
