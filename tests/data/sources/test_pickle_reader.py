import io
import pickle
import pickletools

import pytest

from episodic.data.sources import pickle_reader
from episodic.data.sources.pickle_reader import PickleReader
from episodic.data.sources.pickled_arrays import NotPlainError

VALUE = {
    "class_dict": {"n01": [0, 255, 256, 65_536, -1, 2**31, -(2**70)], "n02": []},
    b"labels": (1, 2.5, None, True, False, (), ("a",), ("a", "b"), ("a", "b", "c")),
    7: ["ö", "\N{SNOWMAN}", b"", b"\xff\x00", "long " * 100, bytearray(b"abc"), "a\nb\\u"],
    None: list(range(3000)),
}


def read(stream):
    return PickleReader(io.BytesIO(stream), len(stream)).read()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("shorten", [bytes, pickletools.optimize], ids=["", "optimized"])
def test_it_reads_what_pickle_reads(protocol, shorten):
    stream = shorten(pickle.dumps(VALUE, protocol))
    assert repr(read(stream)) == repr(VALUE)


def test_each_opcode_is_known_to_python_and_none_makes_objects_of_classes():
    known = {code.code.encode("latin1"): code.name for code in pickletools.opcodes}
    assert set(pickle_reader._STEPS) <= set(known)
    refused = {name for code, name in known.items() if code not in pickle_reader._STEPS} - {"STOP"}
    assert {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"} <= refused
    assert {"NEXT_BUFFER", "READONLY_BUFFER", "DUP", "POP", "POP_MARK", "LONG4"} <= refused


def test_the_text_of_python_2_is_read():
    assert read(b"(S'a\\x41\\n'\nS\"b'c\"\nI01\nI00\nI-7\nL12L\nF1.5\nV\\u00e9\nl.") == [
        "aA\n",
        "b'c",
        True,
        False,
        -7,
        12,
        1.5,
        "é",
    ]
    assert read(b"(U\x02\xff\x00T\x01\x00\x00\x00bl.") == ["\xff\x00", "b"]


def test_a_value_is_read_from_memory_as_often_as_it_is_named():
    shared = ["a"]
    stream = pickle.dumps([shared, shared], 4)
    back = read(stream)
    assert back[0] is back[1]
    assert read(b"(Np1\ng1\nt.") == (None, None)  # cPickle of Python 2 begins at 1


def test_what_follows_the_pickle_is_left():
    file = io.BytesIO(pickle.dumps(1) + b"more")
    assert PickleReader(file, 100).read() == 1
    assert file.read() == b"more"


def test_memory_is_given_in_proportion_to_the_file(monkeypatch):
    monkeypatch.setattr(pickle_reader, "_FREE", 0)
    honest = [pickle.dumps(value, 4) for value in ([[i, i] for i in range(2000)], [(i, i) for i in range(2000)])]
    for stream in honest:
        read(stream)
    with pytest.raises(NotPlainError, match="16 times their memory"):
        read(b"(" + b"}" * 2000 + b"l.")


def test_lists_are_open_in_each_other_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(pickle_reader, "_MOST_MARKS", 3)
    assert read(b"(((lll.") == [[[]]]
    with pytest.raises(NotPlainError, match="more than 3 levels deep"):
        read(b"((((llll.")
