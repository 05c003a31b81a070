"""Damage pickles of published layouts at random and read them: each has to load, or be refused by one clear line.

    uv run python scripts/fuzz/pickles.py [--count 100000] [--seed 0]

The layouts are those of miniImageNet, CIFAR-100 and tieredImageNet, in every protocol and as Python 2 wrote them. A file is damaged
in one to four places: bits and bytes are changed, parts are cut out, doubled or taken from another file, opcodes are put in or
replaced, and lengths are set to extremes. What loads is printed and pickled again, so that every byte of it is looked at.

The work is done in a process of its own that may take `HEADROOM` more memory than it needs to start (on Linux). A failure is a file
that ends the process, takes more memory or more than `PATIENCE` seconds, or raises anything but `ValueError`. Its number is
printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import pickle
import pickletools
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from episodic.data.sources.restricted_pickle import load_arrays
from episodic.evaluate.tables import table

HEADROOM = 96 << 20  # bytes: 16 MiB that any file may take, the printed text, and what the allocator keeps
PATIENCE = 20  # seconds; a file takes less than a millisecond, but a machine may be busy
OPCODES = [code.code.encode("latin1") for code in pickletools.opcodes]
LENGTHS = [0, 1, 2, 3, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
# What cPickle of Python 2 writes: its memo begins at 1, its strings hold bytes.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87"
    b"Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff"
    b"\xff\xffK\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftbU\x06labels]q\x08(K\x00K\x01eu."
)


def layouts() -> dict[str, Any]:
    """Small data in the layouts in which data sets are published."""
    rng = np.random.default_rng(0)
    return {
        "miniImageNet": {
            "image_data": rng.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8),
            "class_dict": {"n01532829": [0, 1], "n01558993": [2, 3]},
        },
        "miniImageNet, category split": {
            "data": rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
            "labels": [0, 64, 64],
            "catname2label": {"n01532829": 0, "n01558993": 64},
        },
        "CIFAR-100": {
            "data": rng.integers(0, 256, (2, 48), dtype=np.uint8),
            "fine_labels": [3, 99],
            "filenames": ["bos_taurus_s_000507.png", "stegosaurus_s_000125.png"],
            "batch_label": "training batch 1 of 1",
        },
        "CIFAR-100, meta": {"fine_label_names": ["apple", "Köln"], "coarse_label_names": [b"fish", "\N{SNOWMAN}"]},
        "tieredImageNet, images": [np.frombuffer(rng.bytes(n), np.uint8).reshape(-1, 1) for n in (30, 40, 50)],
        "tieredImageNet, labels": {
            "label_specific": np.arange(4),
            "label_general": [np.int64(1), np.float32(0.5), np.str_("x"), np.bool_(True)],
            "label_specific_str": np.array(["tench", None, ("a", 1)], dtype=object),
        },
        "arrays": (
            np.asfortranarray(rng.normal(size=(3, 4))),
            np.arange(24, dtype=">i4").reshape(2, 3, 4).transpose(1, 0, 2),
            np.array([["cat", "Köln"]]),
            np.array([b"cat", b"horse"]),
            np.array([True, False]),
            np.zeros((0, 3072), np.float16),
            np.array(7),
            np.array([["a", [1, 2]], [np.arange(3), {"x": 1.5}]], dtype=object),
            (-1.5, 2**70, bytearray(b"abc"), None),
        ),
    }


def originals() -> list[tuple[str, bytes]]:
    """`(layout, pickle)` of every layout in every protocol, each with both names of NumPy's modules."""
    found = [("Python 2", PYTHON_2)]
    for name, value in layouts().items():
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            stream = pickle.dumps(value, protocol)
            found.append((name, stream))
            if protocol == 2:
                found.append((name, stream.replace(b"numpy._core", b"numpy.core")))
    return found


class Damage:
    """Damages the original pickles. File `i` is the same for the same seed."""

    def __init__(self, seed: int):
        self.seed = seed
        self.originals = originals()
        self.positions = [[place for _, _, place in pickletools.genops(stream)] for _, stream in self.originals]

    def file(self, i: int) -> tuple[str, bytes]:
        """`(layout, damaged pickle)`."""
        rng = random.Random(f"{self.seed} {i}")
        which = rng.randrange(len(self.originals))
        layout, stream = self.originals[which]
        data = bytearray(stream)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            place = rng.choice(self.positions[which]) if rng.random() < 0.7 else rng.randrange(len(stream))
            rng.choice(DAMAGES)(self, rng, data, min(place, len(data)))
        return layout, bytes(data)

    def flip(self, rng: random.Random, data: bytearray, place: int) -> None:
        if place < len(data):
            data[place] ^= 1 << rng.randrange(8)

    def set_byte(self, rng: random.Random, data: bytearray, place: int) -> None:
        data[place : place + 1] = bytes([rng.randrange(256)])

    def cut_end(self, rng: random.Random, data: bytearray, place: int) -> None:
        del data[place:]

    def cut_out(self, rng: random.Random, data: bytearray, place: int) -> None:
        del data[place : place + rng.randint(1, 40)]

    def double(self, rng: random.Random, data: bytearray, place: int) -> None:
        data[place:place] = data[place : place + rng.randint(1, 60)] * rng.choice([1, 1, 2, 50])

    def splice(self, rng: random.Random, data: bytearray, place: int) -> None:
        other = rng.randrange(len(self.originals))
        start = rng.choice(self.positions[other])
        data[place : place + rng.choice([0, 0, 1, 20])] = self.originals[other][1][start : start + rng.randint(1, 80)]

    def insert_opcode(self, rng: random.Random, data: bytearray, place: int) -> None:
        data[place:place] = opcode(rng)

    def replace_opcode(self, rng: random.Random, data: bytearray, place: int) -> None:
        data[place : place + 1] = rng.choice(OPCODES)

    def set_length(self, rng: random.Random, data: bytearray, place: int) -> None:
        layout, size = rng.choice([("<B", 1), ("<H", 2), ("<I", 4), ("<Q", 8)])
        number = rng.choice(LENGTHS) % (1 << 8 * size)
        data[place + 1 : place + 1 + size] = struct.pack(layout, number)


DAMAGES = [
    Damage.flip,
    Damage.set_byte,
    Damage.cut_end,
    Damage.cut_out,
    Damage.double,
    Damage.splice,
    Damage.insert_opcode,
    Damage.replace_opcode,
    Damage.set_length,
]


def opcode(rng: random.Random) -> bytes:
    """Any opcode with an argument of its kind, often an extreme one."""
    code = rng.choice(pickletools.opcodes)
    start, kind = code.code.encode("latin1"), code.arg
    if kind is None:
        return start * rng.choice([1, 1, 1, 2, 100])
    number = rng.choice(LENGTHS) if rng.random() < 0.3 else rng.randrange(20)
    if kind.n >= 0:
        return start + number.to_bytes(8, "little")[: kind.n].ljust(kind.n, b"\0")
    width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}.get(kind.n)
    if kind.n == pickletools.UP_TO_NEWLINE:
        words = [b"%d" % number, b"-1", b"1.5", b"9" * 5000, b"'x'", b"numpy\ndtype", b"posix\nsystem", b"\\ud800"]
        return start + rng.choice(words) + b"\n"
    return start + number.to_bytes(8, "little")[: width or rng.choice([4, 8])] + b"x" * min(number, 300)


def outcome(path: Path, data: bytes) -> str:
    """What the reader makes of a file: `"loaded"` or one of the two ways to be refused; anything else is a failure."""
    path.write_bytes(data)
    try:
        value = load_arrays(path)
    except ValueError as error:
        text = str(error)
        if "\n" in text or not text.startswith(str(path)) or len(text) > len(str(path)) + 600:
            return "no clear line"
        return "not plain data" if "is not plain data" in text else "damaged"
    except Exception as error:
        return type(error).__name__
    repr(value)
    pickle.dump(value, io.BytesIO(), protocol=5)
    return "loaded"


def work(seed: int, first: int, stop: int, number: Any, results: Any) -> None:
    """Reads the files from `first` on, and says in `number` which one it is at."""
    damage, counts = Damage(seed), Counter()
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python's, for odd escapes in strings
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.pkl"
        outcome(path, b"")  # what is imported late is imported now
        before = limit_memory()
        for i in range(first, stop):
            number.value = i
            layout, data = damage.file(i)
            if hasattr(signal, "alarm"):
                signal.alarm(PATIENCE)  # ends the process
            counts[layout, found := outcome(path, data)] += 1
            if found not in OUTCOMES:
                counts["failed", i, found] += 1
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        results.put((dict(counts), most_memory() - before))


OUTCOMES = ("loaded", "not plain data", "damaged")


def limit_memory() -> int:
    """Limits the memory of this process, where the system can, and returns the most that it has taken."""
    with contextlib.suppress(ImportError, OSError):
        import resource  # not on Windows

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + HEADROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return most_memory()


def most_memory() -> int:
    """The most bytes that this process has held; 0 where the system does not say."""
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def fuzz(seed: int, count: int) -> tuple[Counter, list[tuple[int, str]], int]:
    """`(number of files by (layout, outcome), (number, outcome) of the failures, the most memory taken in bytes)`."""
    context, counts, failures, memory, first = multiprocessing.get_context("spawn"), Counter(), [], 0, 0
    while first < count:
        number, results = context.Value("q", -1), context.SimpleQueue()
        process = context.Process(target=work, args=(seed, first, count, number, results))
        process.start()
        process.join()
        if process.exitcode == 0:
            found, taken = results.get()
            failures += [key[1:] for key in found if key[0] == "failed"]
            counts.update({key: n for key, n in found.items() if key[0] != "failed"})
            return counts, failures, max(memory, taken)
        if number.value < 0:
            raise RuntimeError(f"the process that reads the files did not begin: exit status {process.exitcode}")
        failures.append((number.value, f"exit status {process.exitcode}"))
        first = number.value + 1
    return counts, failures, memory


def main(arguments: list[str] | None = None) -> int:
    """Prints the table and returns 1 where there was a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="files")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    started = time.perf_counter()
    counts, failures, memory = fuzz(args.seed, args.count)
    names = list(dict.fromkeys(layout for layout, _ in originals()))
    lines = [[name, *(f"{counts[name, found]:,}" for found in OUTCOMES)] for name in names]
    lines.append(["all", *(f"{sum(counts[name, found] for name in names):,}" for found in OUTCOMES)])
    print(table(["layout", *OUTCOMES], lines))
    largest = max(len(stream) for _, stream in originals())
    print(
        f"{args.count:,} files of at most about {largest:,} bytes, {len(failures):,} failures, {memory / 2**20:.1f} MiB more "
        f"memory than at the start, {time.perf_counter() - started:.0f} s"
    )
    for number, found in failures[:20]:
        print(f"file {number} of seed {args.seed}: {found}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
