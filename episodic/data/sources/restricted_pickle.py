"""Pickles of arrays from strangers, read without running what is in them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from episodic.data.sources.pickle_reader import PickleReader
from episodic.data.sources.pickled_arrays import NotPlainError

_DEEPEST = 32  # levels of lists, tuples and dicts in each other
_CONTAINERS = (list, tuple, dict, np.ndarray)
_LEAVES = (str, bytes, bytearray, int, float, type(None), np.generic)


def load_arrays(path: str | os.PathLike) -> Any:
    """Reads a pickle of plain data without running what is in it. Plain data are NumPy arrays and scalars in dicts, lists and
    tuples, with strings, bytes and numbers.

    A pickle is a program: `pickle.load` runs whatever function the file names. Few-shot data sets are published as
    pickles (miniImageNet, tieredImageNet, CIFAR-100), so this reads the data and nothing else: no function or class of
    the file's choosing is ever called, and NumPy is never given sizes that the file only states. A file cannot take more than
    a small multiple of its own size in memory. Pickles of Python 2 are read as by `encoding="latin1"`, which keeps their
    arrays intact.

    Arrays are read-only, since they lie in the bytes that were read: copy one to change it.

    **Raises:** `ValueError` that names the file, for a pickle that asks for anything else, is cut short, or is no
    pickle; `FileNotFoundError` where there is none.

    >>> import pickle, tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     pickle.dump({"labels": [0, 1]}, file)
    ...     file.flush()
    ...     load_arrays(file.name)
    {'labels': [0, 1]}
    """
    with open(path, "rb", buffering=1 << 16) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            value = PickleReader(file, size).read()
            _check_tree(value, most=size + (1 << 20))
            return value
        except NotPlainError as error:
            raise ValueError(
                f"{path} is not plain data: {error}. Loading it with pickle could run any code, so it is refused. If "
                "you trust where it came from, convert it yourself to NumPy arrays, dicts and lists, or to images."
            ) from None
        except (OSError, MemoryError):
            raise
        # A damaged stream can make the reader fail in many ways: EOFError, IndexError, UnicodeError, TypeError, ...
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read as a pickle ({type(error).__name__}: {str(error)[:200]}). It is damaged, cut short, "
                "or no pickle (perhaps a web page that was saved in its place): delete it and get it again."
            ) from None


def _check_tree(value: Any, most: int) -> None:
    """Refuses what would take forever to walk through: a list that holds itself, or a list in so many places that its entries and
    bytes, counted at each place, are more than `most`.
    """
    level, size = [value], 1
    for _ in range(_DEEPEST + 1):
        for kind in set(map(type, level)):
            if not issubclass(kind, _CONTAINERS + _LEAVES):
                raise NotPlainError("it holds a function or an array without data")
        level = [item for item in level if isinstance(item, _CONTAINERS)]
        size += sum(item.nbytes if isinstance(item, np.ndarray) else len(item) for item in level)
        if size > most:
            raise NotPlainError("it holds the same list or array in so many places that nobody could walk through it")
        level = list(itertools.chain.from_iterable(map(_entries, level)))
        if not level:
            return
    raise NotPlainError(f"it holds lists or dicts in each other, more than {_DEEPEST} levels deep, or one in itself")


def _entries(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, np.ndarray):
        return value.flat if value.dtype.hasobject else ()
    return value
