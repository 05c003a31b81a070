"""Pickles that were written to break a reader: small files that crash it, hang it, fill the memory or run code."""

import pickle
import struct


def number(n):
    return pickle.dumps(n, 2)[2:-1]


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def dtype(spec, order=b"|"):
    """The opcodes that make a dtype and state its byte order."""
    made = b"cnumpy\ndtype\n" + text(spec) + b"K\x00K\x01\x87R"
    return made + b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


BEGIN = b"\x80\x02"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
ENCODE = b"c_codecs\nencode\n"
BUFFER = b"cnumpy.core.numeric\n_frombuffer\n"


def state(shape, dtype, data):
    """The opcodes that give an array its shape, dtype and data, each as opcodes."""
    return b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def array(shape, spec, data):
    return BEGIN + EMPTY + state(shape, dtype(spec), data) + b"."


def listed(item, n):
    return b"(" + item * n + b"l."


MINUS, ONE = number(-1), b"U\x01a"
OBJECTS = b"](K\x01K\x02K\x03e"
THREE, FOUR_THOUSAND, FIFTY_THOUSAND = b"K\x03\x85", b"M\x00\x10\x85", b"M\x50\xc3\x85"
LETTERS = b"T\x50\xc3\x00\x00" + b"a" * 50_000
POINTERS = b"U\x18" + b"A" * 24
SHARED = EMPTY + b"(K\x01" + FIFTY_THOUSAND + b"h\x01\x89h\x00tb"  # an array of the dtype and data in the memo

# What is said of it: {name: bytes}.
HOSTILE = {
    "sets the state of": {
        "two states on one array": BEGIN + EMPTY + state(THREE, dtype(b"O8"), OBJECTS) * 2 + b".",
        "bytes after objects": BEGIN
        + EMPTY
        + state(THREE, dtype(b"O8"), OBJECTS)
        + state(THREE, dtype(b"i8"), POINTERS)
        + b".",
        "a view that is kept over a second state": BEGIN
        + b"("
        + EMPTY
        + state(FOUR_THOUSAND, dtype(b"u1"), b"T\x00\x10\x00\x00" + b"a" * 4096)
        + b"q\x00"
        + state(b"K\x01\x85", dtype(b"u1"), ONE)
        + BUFFER
        + b"(h\x00"
        + dtype(b"u1")
        + FOUR_THOUSAND
        + text(b"C")
        + b"tRl.",
        "a state for a list": b"\x80\x02]}b.",
        "a state for None": b"\x80\x02NNb.",
        "a state for a function": BEGIN + ENCODE + b"N}X\x01\x00\x00\x00xK\x01s\x86b.",
        "a state for a dict": b"\x80\x02}N}U\x07__doc__Ns\x86b.",
        "a dtype with two states": BEGIN + dtype(b"i4") + b"(K\x03U\x01>NNNNNNtb.",
    },
    "came with other data": {
        "objects as bytes": array(THREE, b"O8", POINTERS),
        "objects, too few": array(b"K\x09\x85", b"O8", OBJECTS),
        "sides that overflow": array(number(2**32) + number(2**32) + b"\x86", b"u1", b"U\x00"),
        "an array as a buffer": BEGIN
        + BUFFER
        + b"("
        + EMPTY
        + state(FOUR_THOUSAND, dtype(b"u1"), b"T\x00\x10\x00\x00" + b"a" * 4096)
        + dtype(b"u1")
        + FOUR_THOUSAND
        + text(b"C")
        + b"tR.",
    },
    "states no shape": {
        "70 sides": array(b"(" + b"K\x01" * 70 + b"t", b"u1", ONE),
        "2,000 sides": array(b"(" + b"K\x01" * 2000 + b"t", b"u1", ONE),
        "sides below zero": array(MINUS + MINUS + b"\x86", b"u1", ONE),
        "a side that is true": array(b"\x88\x85", b"u1", ONE),
        "a side that is a fraction": array(b"G?\xf0\x00\x00\x00\x00\x00\x00\x85", b"u1", ONE),
        "sides in a list": array(b"](K\x01e", b"u1", ONE),
    },
    "an array of": {
        "a truth that is 2": array(THREE, b"b1", b"U\x03\x00\x02\xff"),
        "letters beyond Unicode": array(b"K\x01\x85", b"U1", b"U\x04\xff\xff\xff\xff"),
        "half a surrogate pair in an array": array(b"K\x01\x85", b"U1", b"U\x04\x00\xd8\x00\x00"),
        "entries of no size": array(number(10**15) + b"\x85", b"S0", b"U\x00"),
        "letters of no size": array(number(10**15) + b"\x85", b"U0", b"U\x00"),
        "long strings": array(b"K\x00\x85", b"U999999999", b"U\x00"),
        "rows of no size": array(number(10**15) + b"K\x00\x86", b"u1", b"U\x00"),
        "huge sides": array(number(2**62) + number(2**62) + b"K\x00\x87", b"u1", b"U\x00"),
        "a side of 2,000 bits": array(b"\x8a\xff" + b"\x7f" * 255 + b"\x85", b"u1", ONE),
        "a dtype of fields": BEGIN + dtype(b"V8") + b".",
        "a dtype by a list": BEGIN + b"cnumpy\ndtype\n](U\x02u1e\x85R.",
    },
    "objects in the place of bytes": {
        "objects in a buffer": BEGIN + BUFFER + b"(C\x08AAAAAAAA" + dtype(b"O8") + b"K\x01\x85" + text(b"C") + b"tR.",
    },
    "part of itself": {
        "an array inside itself": BEGIN + EMPTY + b"q\x00" + state(b"K\x01\x85", dtype(b"O8"), b"](h\x00e") + b".",
    },
    "a function or an array without data": {
        "an array without a state": BEGIN + EMPTY + b".",
        "a dtype alone": BEGIN + dtype(b"u1") + b".",
        "a function alone": BEGIN + ENCODE + b".",
        "a function as an object": array(b"K\x01\x85", b"O8", b"](" + ENCODE + b"e"),
    },
    "no byte order": {
        "an order of bytes that is none": BEGIN + dtype(b"i4", b"S") + b".",
    },
    "index": {
        "memo index": b"\x80\x02Nr\xff\xff\xff\x01.",
        "memo index in text": b"Np99999999\n.",
        "memo index below zero": b"Np-1\n.",
        "memo index that nobody put": b"\x80\x02h\x00.",
        "memo index that was passed over": b"\x80\x02Nq\x01h\x00\x86.",
        "an index below zero": b"Np0\ng-1\n\x86.",
    },
    "it states": {
        "long frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.",
        "long bytes": b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00.",
        "longest bytes": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
        "long bytearray": b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00.",
        "long text": b"\x80\x04\x8d\x00\x00\x00\x00\x01\x00\x00\x00.",
        "long text of 4 bytes' length": b"\x80\x02X\xff\xff\xff\x7f.",
        "long Python 2 string": b"\x80\x02T\xff\xff\xff\x7f.",
        "length below zero": b"\x80\x02T\xff\xff\xff\xff.",
    },
    "times their memory": {
        "one text encoded 200 times": BEGIN
        + b"("
        + text(b"a" * 50_000)
        + b"U\x06latin1\x86q\x00"
        + (ENCODE + b"h\x00R") * 200
        + b"l.",
        "one text, 200 arrays": BEGIN + b"(" + LETTERS + b"q\x00" + dtype(b"u1") + b"q\x01" + SHARED * 200 + b"l.",
        "one list, 200 arrays": BEGIN
        + b"(("
        + b"N" * 50_000
        + b"lq\x00"
        + dtype(b"O8")
        + b"q\x01"
        + SHARED * 200
        + b"l.",
        "lists": listed(b"]", 5000),
        "dicts": listed(b"}", 2000),
        "dicts of one entry": listed(b"}NNs", 2000),
        "lists of one entry": listed(b"]Na", 5000),
        "tuples": b"N" + b"\x85" * 10_000 + b".",
    },
    "nobody could walk": {
        "one array, listed 5,000 times": b"\x80\x02("
        + array(FIFTY_THOUSAND, b"u1", LETTERS)[2:-1]
        + b"q\x00"
        + b"h\x00" * 5000
        + b"l.",
        "a tuple that unfolds to 2^100": BEGIN
        + b"N"
        + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(100))
        + b".",
    },
    "levels deep": {
        "marks": b"(" * 10_000 + b"t" * 10_000 + b".",
        "1,000 tuples in each other": b"\x80\x02N" + b"\x85" * 1000 + b".",
        "1,000 lists in each other": b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
        "a list in itself": b"\x80\x02]q\x00h\x00a.",
        "a dict in itself": b"\x80\x02}q\x00Nh\x00s.",
        "a tuple in its list": b"\x80\x02]q\x00h\x00\x85a.",
    },
    "as a key|without a value": {
        "a key of 1,000 tuples": b"\x80\x02}N" + b"\x85" * 1000 + b"Ns.",
        "a list as a key": b"\x80\x02}]Ns.",
        "an array as a key": BEGIN + b"}" + EMPTY + state(b"K\x01\x85", dtype(b"u1"), ONE) + b"Ns.",
        "a key without a value": b"\x80\x02}(Nu.",
        "keys of one hash": b"\x80\x02}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(200)) + b"u.",
    },
    "cannot be read": {
        "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
        "a long number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
        "a fraction of a million digits": b"F" + b"9" * 1_000_000 + b"\n.",
        "a string without quotes": b"Sabc\n.",
        "a string of one quote": b"S'\n.",
        "half an escape": b"S'\\x4'\n.",
        "half a letter": b"\x80\x02X\x01\x00\x00\x00\xc3.",
        "half a surrogate pair": b"V\\ud800\n.",
        "half a surrogate pair in UTF-8": b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.",
        "a protocol to come": b"\x80\x09N.",
        "no opcode": b"\x80\x02\xfe.",
        "nothing": b"",
        "nothing on the stack": b"\x80\x02.",
        "two things on the stack": b"\x80\x02NN.",
        "an open mark": b"\x80\x02(N.",
        "an entry below a mark": b"\x80\x02](a.",
        "a tuple of more than there is": b"\x80\x02N\x87.",
    },
    "adds entries|sets the entries": {
        "an entry for a number": b"\x80\x02K\x01Na.",
        "a key for a list": b"\x80\x02]NNs.",
    },
    "it calls": {"a call of a list": b"\x80\x02])R.", "a call without a tuple": BEGIN + ENCODE + b"NR."},
    "posix.system|uses the opcode": {
        "an instance": b"(iposix\nsystem\n.",
        "an object": b"\x80\x02(cposix\nsystem\no.",
        "a new object": b"\x80\x02cposix\nsystem\n)\x81.",
        "a set": b"\x80\x04\x8f.",
        "extension": b"\x80\x02\x82\x01.",
        "extension 4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "a person's id": b"Pabc\n.",
        "a person's id, binary": b"\x80\x02N\x51.",
        "a buffer from outside": b"\x80\x05\x97.",
        "a read-only buffer": b"\x80\x05N\x98.",
        "copies of the top": b"\x80\x02]2a.",
        "a long integer of 300,000 bytes": b"\x80\x02\x8b\x00\x00\x04\x00" + b"\x7f" * 0x40000 + b".",
    },
}
