"""A reader of pickles that knows only the opcodes of plain data, and takes memory in proportion to the file.

A pickle is a list of opcodes for a machine with a stack and a numbered memory, the memo. Python's own machine can call any
function, and believes the sizes and numbers that the file states. This one has no opcode for an object of a class, calls nothing
but `FUNCTIONS`, and checks each size before it reads.
"""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from types import FunctionType, NoneType
from typing import Any

import numpy as np

from episodic.data.sources.pickled_arrays import FUNCTIONS, NotPlainError, Unfinished

# Bytes of memory that lists, tuples, dicts and arrays may take for each byte of the file, and for any file. Without this limit a
# file could ask for one small dict after the other, or for one long text a thousand times. Honest data take a few times their size.
_SHARE, _FREE = 16, 1 << 24
_LIST, _TUPLE, _DICT, _CALL = 96, 48, 232, 128  # bytes of one with an entry or two, and of an array beside its data
_MOST_MARKS = 1000  # that are open: one for each level of lists in lists
_LONGEST_NUMBER = 1000  # characters
_KEYS = {str, bytes, int, float, bool, NoneType}

Step = Callable[["PickleReader"], None]


class PickleReader:
    """Reads one pickle of plain data. It is a stack machine: each opcode is a step that changes the stack or the memo.

    `size` is the length of the file in bytes; nothing that the file states may be longer.

    >>> stream = pickle.dumps({"labels": [0, 1]})
    >>> PickleReader(io.BytesIO(stream), len(stream)).read()
    {'labels': [0, 1]}

    **Raises:** by `read`: `NotPlainError` for what is not plain data; `EOFError`, `ValueError` and other errors for a damaged file.
    """

    def __init__(self, file: io.BufferedIOBase, size: int):
        self._file = file
        self._size = size
        self._left = _SHARE * size + _FREE
        self._stack: list[Any] = []
        self._marks: list[int] = []  # how long the stack was
        self._memo: list[Any] = []

    def read(self) -> Any:
        """Reads up to the end of the pickle and returns its value."""
        read, steps = self._file.read, _STEPS
        while (code := read(1)) != pickle.STOP:
            step = steps.get(code)
            if step is None:
                raise _unknown(code)
            step(self)
        if len(self._stack) != 1 or self._marks:
            raise ValueError(f"it ends with {len(self._stack)} values and {len(self._marks)} open lists")
        return self._stack.pop()

    def check_length(self, n: int) -> None:
        """Refuses a length that the file states and does not have."""
        if not 0 <= n <= self._size:
            raise EOFError(f"it states {n:,} bytes and has {self._size:,}")

    def take(self, n: int) -> bytes:
        """The next `n` bytes."""
        self.check_length(n)
        data = self._file.read(n)
        if len(data) < n:
            raise EOFError("it ends too early")
        return data

    def take_bytearray(self, n: int) -> bytearray:
        """The next `n` bytes, in memory that can be changed."""
        self.check_length(n)
        data = bytearray(n)
        if self._file.readinto(data) < n:
            raise EOFError("it ends too early")
        return data

    def line(self, most: int = -1) -> bytes:
        """The next line, without its end."""
        line = self._file.readline(most)
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early" if len(line) != most else f"it has a number of more than {most} digits")
        return line[:-1]

    def number(self) -> bytes:
        return self.line(_LONGEST_NUMBER)

    def spend(self, memory: int) -> None:
        self._left -= memory
        if self._left < 0:
            raise NotPlainError(
                f"its {self._size:,} bytes ask for more than {_SHARE} times their memory in lists, dicts and arrays"
            )

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self) -> None:
        if len(self._marks) == _MOST_MARKS:
            raise NotPlainError(f"it holds lists in each other, more than {_MOST_MARKS} levels deep")
        self._marks.append(len(self._stack))

    def since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def push_tuple(self, items: list[Any]) -> None:
        self.spend(_TUPLE + 8 * len(items))
        self.push(tuple(items))

    def push_last(self, n: int) -> None:
        """Puts a tuple in the place of the last `n` values."""
        items = self._stack[-n:]
        if len(items) < n:
            raise IndexError("a tuple of more values than there are")
        del self._stack[-n:]
        self.push_tuple(items)

    def push_list(self, items: list[Any]) -> None:
        self.spend(_LIST)
        self.push(items)

    def push_dict(self, items: list[Any]) -> None:
        self.spend(_DICT)
        self.push({})
        self.update(items)

    def extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise NotPlainError(f"it adds entries to a {type(target).__name__}")
        target += items

    def update(self, items: list[Any]) -> None:
        """Adds keys and values, in turns, to the dict on top."""
        target, keys, values = self._stack[-1], items[::2], items[1::2]
        if type(target) is not dict or len(keys) != len(values):
            raise NotPlainError(f"it sets the entries of a {type(target).__name__}, or a key without a value")
        # Python compares keys that are equal modulo 2^61 - 1 one by one: long integers could be chosen so that it never ends.
        for kind in set(map(type, keys)):
            if kind not in _KEYS and not issubclass(kind, np.generic):
                raise NotPlainError(f"it has a {kind.__name__} as a key")
            if kind is int and any(key.bit_length() > 64 for key in keys if type(key) is int):
                raise NotPlainError("it has an integer of more than 64 bits as a key")
        target.update(zip(keys, values, strict=True))

    def put(self, index: int) -> None:
        """Remembers the value on top. Indices follow each other; those of Python 2 begin at 1."""
        if not 0 <= index <= len(self._memo) + 1:
            raise ValueError(f"it has {len(self._memo)} values in memory and states index {index}")
        while len(self._memo) <= index:
            self._memo.append(_NOTHING)
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        value = self._memo[index] if 0 <= index < len(self._memo) else _NOTHING
        value = value.value if type(value) is Unfinished else value
        if value is None and type(self._memo[index]) is Unfinished:
            raise NotPlainError("it holds an array that is part of itself")
        if value is _NOTHING:
            raise ValueError(f"it asks for index {index} of its memory, where nothing is")
        self.push(value)

    def function(self, module: str, name: str) -> None:
        if (module, name) not in FUNCTIONS:
            raise NotPlainError(f"it asks for {ascii(f'{module}.{name}')[:80]}")
        self.push(FUNCTIONS[module, name])

    def stacked_function(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it asks for a function without a name")
        self.function(module, name)

    def call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not FunctionType or type(arguments) is not tuple:
            raise NotPlainError(f"it calls a {type(function).__name__}")
        self._push_made(function(*arguments))

    def build(self) -> None:
        """Makes the array or dtype on top, now that it is described. What is made cannot be changed by a second description."""
        state, unfinished = self._stack.pop(), self._stack.pop()
        if type(unfinished) is not Unfinished:
            raise NotPlainError(f"it sets the state of a {type(unfinished).__name__}")
        unfinished.value = unfinished.finish(state)
        self._push_made(unfinished.value)

    def _push_made(self, value: Any) -> None:
        data = len(value) if isinstance(value, bytes | bytearray) else getattr(value, "nbytes", 0)
        self.spend(_CALL + data)
        self.push(value)

    def pop(self) -> Any:
        return self._stack.pop()


_NOTHING = object()  # in an entry of the memo that was never put


def _unknown(code: bytes) -> Exception:
    if not code:
        return EOFError("it ends too early")
    known = pickletools.code2op.get(code.decode("latin1"))
    if known is None:
        return ValueError(f"{code} is no opcode")
    return NotPlainError(f"it uses the opcode {known.name}")


def _constant(value: Any) -> Step:
    return lambda reader: reader.push(value)


def _fixed(layout: str) -> Step:
    """A number in binary."""
    number = struct.Struct(layout)
    size, unpack = number.size, number.unpack
    return lambda reader: reader.push(unpack(reader.take(size))[0])


def _sized(layout: str, make: Callable[[bytes], Any] = bytes) -> Step:
    """Bytes after their length; `make` makes the value of them."""
    number = struct.Struct(layout)
    size, unpack = number.size, number.unpack
    return lambda reader: reader.push(make(reader.take(unpack(reader.take(size))[0])))


def _at(layout: str, use: Callable[[PickleReader, int], None]) -> Step:
    number = struct.Struct(layout)
    size, unpack = number.size, number.unpack
    return lambda reader: use(reader, unpack(reader.take(size))[0])


def _latin1(data: bytes) -> str:
    return data.decode("latin1")


def _utf8(data: bytes) -> str:
    return data.decode("utf-8")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decimal(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else int(line)


def _quoted(line: bytes) -> str:
    """A string as Python 2 printed it."""
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise ValueError("it has a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _escaped(line: bytes) -> str:
    text = line.decode("raw-unicode-escape")
    text.encode("utf-8")  # refuses halves of surrogate pairs, as `_utf8` does
    return text


def _check_protocol(reader: PickleReader, protocol: int) -> None:
    if protocol > pickle.HIGHEST_PROTOCOL:
        raise ValueError(f"it is of protocol {protocol}; those up to {pickle.HIGHEST_PROTOCOL} are known")


_STEPS: dict[bytes, Step] = {
    pickle.PROTO: _at("<B", _check_protocol),
    pickle.FRAME: _at("<Q", PickleReader.check_length),
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),
    pickle.NEWFALSE: _constant(False),
    pickle.BININT: _fixed("<i"),
    pickle.BININT1: _fixed("<B"),
    pickle.BININT2: _fixed("<H"),
    pickle.BINFLOAT: _fixed(">d"),
    pickle.LONG1: _sized("<B", _integer),
    pickle.INT: lambda reader: reader.push(_decimal(reader.number())),
    pickle.LONG: lambda reader: reader.push(int(reader.number().removesuffix(b"L"))),
    pickle.FLOAT: lambda reader: reader.push(float(reader.number())),
    pickle.SHORT_BINBYTES: _sized("<B"),
    pickle.BINBYTES: _sized("<I"),
    pickle.BINBYTES8: _sized("<Q"),
    pickle.BYTEARRAY8: _at("<Q", lambda reader, n: reader.push(reader.take_bytearray(n))),
    pickle.SHORT_BINSTRING: _sized("<B", _latin1),
    pickle.BINSTRING: _sized("<i", _latin1),
    pickle.STRING: lambda reader: reader.push(_quoted(reader.line())),
    pickle.SHORT_BINUNICODE: _sized("<B", _utf8),
    pickle.BINUNICODE: _sized("<I", _utf8),
    pickle.BINUNICODE8: _sized("<Q", _utf8),
    pickle.UNICODE: lambda reader: reader.push(_escaped(reader.line())),
    pickle.MARK: PickleReader.mark,
    pickle.EMPTY_LIST: lambda reader: reader.push_list([]),
    pickle.LIST: lambda reader: reader.push_list(reader.since_mark()),
    pickle.APPEND: lambda reader: reader.extend([reader.pop()]),
    pickle.APPENDS: lambda reader: reader.extend(reader.since_mark()),
    pickle.EMPTY_DICT: lambda reader: reader.push_dict([]),
    pickle.DICT: lambda reader: reader.push_dict(reader.since_mark()),
    pickle.SETITEM: lambda reader: reader.update([reader.pop(), reader.pop()][::-1]),
    pickle.SETITEMS: lambda reader: reader.update(reader.since_mark()),
    pickle.EMPTY_TUPLE: _constant(()),
    pickle.TUPLE1: lambda reader: reader.push_last(1),
    pickle.TUPLE2: lambda reader: reader.push_last(2),
    pickle.TUPLE3: lambda reader: reader.push_last(3),
    pickle.TUPLE: lambda reader: reader.push_tuple(reader.since_mark()),
    pickle.MEMOIZE: lambda reader: reader._memo.append(reader._stack[-1]),
    pickle.BINPUT: _at("<B", PickleReader.put),
    pickle.LONG_BINPUT: _at("<I", PickleReader.put),
    pickle.PUT: lambda reader: reader.put(int(reader.number())),
    pickle.BINGET: _at("<B", PickleReader.get),
    pickle.LONG_BINGET: _at("<I", PickleReader.get),
    pickle.GET: lambda reader: reader.get(int(reader.number())),
    pickle.GLOBAL: lambda reader: reader.function(_utf8(reader.line()), _utf8(reader.line())),
    pickle.STACK_GLOBAL: PickleReader.stacked_function,
    pickle.REDUCE: PickleReader.call,
    pickle.BUILD: PickleReader.build,
}
