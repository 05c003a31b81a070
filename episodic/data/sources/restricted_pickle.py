"""Pickles of arrays from strangers, read without running what is in them."""

from __future__ import annotations

import math
import os
import pickle
import re
from typing import Any

import numpy as np

_PLAIN_DTYPE = re.compile(r"[<>|=]?([biuf]\d{1,2}|[SU]\d{1,9}|[?O]|O8)")


def load_arrays(path: str | os.PathLike) -> Any:
    """Reads a pickle of plain data without running what is in it. Plain data are NumPy arrays and scalars in dicts, lists and
    tuples, with str, bytes, numbers.

    A pickle is a program: `pickle.load` runs whatever function the file names. Few-shot data sets are published as
    pickles (miniImageNet, tieredImageNet, CIFAR-100), so this reads the data and nothing else: no function or class of
    the file's choosing is ever called, and even NumPy's own rebuilding steps are checked first, since they trust sizes
    that the file states. Pickles of Python 2 are read with `encoding="latin1"`, which keeps their arrays intact.

    Arrays may come as a subclass of `np.ndarray`; `np.asarray` makes them plain at no cost.

    **Raises:** `ValueError` that names the file, for a pickle that asks for anything else, is cut short, or is no
    pickle; `FileNotFoundError` where there is none.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     pickle.dump({"labels": [0, 1]}, file)
    ...     file.flush()
    ...     load_arrays(file.name)
    {'labels': [0, 1]}
    """
    with open(path, "rb") as file:
        try:
            return _Unpickler(file, encoding="latin1").load()
        except _ForbiddenError as error:
            raise ValueError(
                f"{path} is not plain data: {error}. Loading it with pickle could run any code, so it is refused. If "
                "you trust where it came from, convert it yourself to NumPy arrays, dicts and lists, or to images."
            ) from None
        except OSError:
            raise
        # A damaged stream can make the reader fail in any way: UnpicklingError, EOFError, IndexError, UnicodeError, ...
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read as a pickle ({type(error).__name__}: {error}). It is damaged, cut short, or no "
                "pickle (perhaps a web page that was saved in its place): delete it and get it again."
            ) from None


class _ForbiddenError(Exception):
    """The pickle asks for something that is no plain data."""


class _DType:
    """Stands in for `np.dtype` while a pickle is read: only plain kinds, and a state that says the byte order alone."""

    def __init__(self, spec: Any, *_: Any):
        spec = spec.decode("latin1") if isinstance(spec, bytes) else spec
        if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
            raise _ForbiddenError(f"it holds an array of dtype {spec!r}")
        self.value = np.dtype(spec)

    def __setstate__(self, state: tuple) -> None:
        _, order, *described = state
        if any(part is not None for part in described[:3]):
            raise _ForbiddenError("it holds a structured array")
        if order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose stated shape must fit the bytes or objects that came with it."""

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, data = state[-4:]
        _check_shape(shape)
        if not isinstance(dtype, _DType):
            raise _ForbiddenError("it holds an array without a dtype")
        dtype, count = dtype.value, math.prod(shape)
        if dtype.hasobject:
            # The objects were made by this same reader. NumPy would read past the end of a list that is too short.
            fits = isinstance(data, list) and len(data) == count
        else:
            data = data.encode("latin1") if isinstance(data, str) else data  # the bytes of a Python 2 pickle
            fits = isinstance(data, bytes) and len(data) == count * dtype.itemsize
        if not fits:
            raise ValueError(f"an array of shape {shape} and dtype {dtype} came with other data")
        super().__setstate__((1, shape, dtype, bool(fortran), data))


def _reconstruct(*_: Any) -> np.ndarray:
    return np.empty(0, np.uint8).view(_Array)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    _check_shape(shape)
    array = np.frombuffer(buffer, dtype.value)
    return array.reshape(shape).transpose(axes) if order == "K" else array.reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    if dtype.value.hasobject:
        raise _ForbiddenError("it holds a scalar of dtype object")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.value, count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocols 0 to 2 spell bytes; no other codec, since `codecs.encode` knows some that do more."""
    if encoding not in ("latin1", "latin-1"):
        raise _ForbiddenError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _ndarray(*_: Any) -> None:
    raise _ForbiddenError("it makes an array in an unusual way")


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array states the shape {shape!r}")


# NumPy 2 renamed numpy.core to numpy._core; files of both kinds are about.
_ALLOWED = {
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,  # how protocols 0 to 2 spell b""
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _ndarray,  # named as the first argument of _reconstruct, which ignores it
} | {
    (f"numpy.{core}.{module}", name): replacement
    for core in ("core", "_core")
    for module, name, replacement in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _from_buffer),
    )
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(f"it asks for {module}.{name}")
        function = _ALLOWED[module, name]
        # A new function each time: a pickle can set attributes on what it is handed, and must not reach the real ones.
        return lambda *arguments: function(*arguments)
