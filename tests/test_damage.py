"""Damage of many kinds in the image cache and in checkpoints is noticed, told in a line and healed."""

import hashlib
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save

from episodic.data.cache import build_store
from episodic.data.store import Listing
from episodic.run.checkpoint import load_checkpoint, save_checkpoint
from episodic.run.run import Run

NAMES = tuple("abcdefgh")
SHAPE = (1, 6, 4)
PIXELS = np.arange(len(NAMES) * 24, dtype=np.uint8).reshape(-1, *SHAPE) + 1
HEADER = 128  # bytes before the first pixel
DEEP = b"[" * 100_000


def write(content):
    def damage(path):
        path.write_bytes(content)

    return damage


def cut(size):
    """Cut to `size` bytes, from the end where it is negative, or lengthened by zeros."""

    def damage(path):
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)

    return damage


def zeros(start, stop=None):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[start:stop] = bytes(len(data[start:stop]))
        path.write_bytes(data)

    return damage


def flipped(position):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[position] ^= 4
        path.write_bytes(data)

    return damage


def array(make):
    def damage(path):
        np.save(path, make(PIXELS), allow_pickle=True)

    return damage


def replaced(old, new):
    def damage(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return damage


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def half(path):
    os.truncate(path, path.stat().st_size // 2)


def gone(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def folder(path):
    gone(path)
    path.mkdir()


def file(path):
    gone(path)
    path.write_text("a file")


def loop(path):
    gone(path)
    path.symlink_to(path)


def dangling(path):
    gone(path)
    path.symlink_to(path.with_name("nowhere"))


def pipe(path):
    gone(path)
    os.mkfifo(path)


# What is damaged, and how. Damage inside the pixels is found where all checksums are asked for.
CACHE = {
    "images cut in half": ("images.npy", half),
    "images empty": ("images.npy", cut(0)),
    "images cut in the header": ("images.npy", cut(60)),
    "images one byte short": ("images.npy", cut(-1)),
    "images one byte longer": ("images.npy", longer),
    "images zeroed": ("images.npy", zeros(0)),
    "images with a zeroed header": ("images.npy", zeros(0, HEADER)),
    "images with a flipped bit in the header": ("images.npy", flipped(30)),
    "images are text": ("images.npy", write(b"no images at all")),
    "images of signed bytes": ("images.npy", array(lambda images: images.astype(np.int8))),
    "images of floats": ("images.npy", array(lambda images: images.astype(np.float32))),
    "images are Python objects": ("images.npy", array(lambda images: images.astype(object))),
    "images in Fortran order": ("images.npy", array(np.asfortranarray)),
    "images of another height and width": ("images.npy", array(lambda images: images.reshape(-1, 1, 4, 6))),
    "images of fewer items": ("images.npy", array(lambda images: images[:5])),
    "images missing": ("images.npy", gone),
    "images are a folder": ("images.npy", folder),
    "images are a link to nothing": ("images.npy", dangling),
    "images are a pipe": ("images.npy", pipe),
    "table empty": ("store.json", cut(0)),
    "table cut in half": ("store.json", half),
    "table zeroed": ("store.json", zeros(0)),
    "table is null": ("store.json", write(b"null")),
    "table is a list": ("store.json", write(b"[]")),
    "table without a key": ("store.json", write(b"{}")),
    "table with a number for a list": ("store.json", replaced("[]", "5")),
    "table that leaves an image out": ("store.json", replaced('"skipped": []', '"skipped": [["c", "broken"]]')),
    "table nested deep": ("store.json", write(DEEP)),
    "table missing": ("store.json", gone),
    "table is a folder": ("store.json", folder),
    "entry is an empty folder": ("", folder),
    "entry is a file": ("", file),
    "entry is a link to itself": ("", loop),
}
PIXEL_DAMAGE = {
    "a pixel with a flipped bit": ("images.npy", flipped(HEADER + 50)),
    "pixels zeroed": ("images.npy", zeros(HEADER + 40, HEADER + 90)),
    "pixels of other images": ("images.npy", array(lambda images: images[::-1])),
}
LISTING = Listing(items=list(PIXELS), labels=[0, 1] * 4, class_names="xy", item_names=NAMES, stamp="1")
PLACE = dict(shape=SHAPE, key="k", dataset="made", split="train", split_name="up")


def opened(**options):
    built = []

    def render(listing, out):
        built.append(listing)
        out[:] = np.stack(listing.items)
        return {}

    store = build_store(LISTING, render, **PLACE, corrupt="skip", **options)
    return store, len(built)


@pytest.mark.parametrize("kind", [*CACHE, *PIXEL_DAMAGE])
def test_a_damaged_cache_is_told_and_rebuilt(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    opened()
    [entry] = (tmp_path / "stores").iterdir()
    name, damage = (CACHE | PIXEL_DAMAGE)[kind]
    damage(entry / name if name else entry)
    options = {"verify": True} if kind in PIXEL_DAMAGE else {}
    for builds in (1, 0):
        store, built = opened(**options)
        assert built == builds
        assert np.array_equal(store.images.numpy(), PIXELS)
        assert (store.item_names, store.labels.tolist()) == (NAMES, LISTING.labels)
        told = capsys.readouterr().out
        assert told.startswith("Note: made train: the cache is damaged (") == (builds == 1)
        assert len(told.splitlines()) == builds
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [entry.name]


def agreed(damage):
    """The damage as one that was written so, with checksums that agree."""

    def both(path):
        damage(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sums = path.with_name("SHA256SUMS")
        lines = [
            f"{digest}  {path.name}\n" if path.name in line else line
            for line in sums.read_text().splitlines(keepends=True)
        ]
        sums.write_text("".join(lines))

    return both


TENSOR_DAMAGE = {
    "cut in half": half,
    "empty": cut(0),
    "one byte longer": longer,
    "zeroed": zeros(0),
    "with a flipped bit": flipped(-3),
    "of other tensors": write(save({"weight": torch.full((2, 3), 9.0)})),
    "with a lying header": agreed(lambda path: path.write_bytes(b"\xff" * 7 + path.read_bytes()[7:])),
    "with a header that lies about a tensor": agreed(
        lambda path: path.write_bytes(path.read_bytes().replace(b"[0,", b"[9,"))
    ),
    "missing": gone,
    "a folder": folder,
    "a link to itself": loop,
    "a pipe": pipe,
}
STATE_DAMAGE = {
    "cut in half": half,
    "empty": cut(0),
    "null": write(b"null"),
    "a list": write(b"[]"),
    "a number": write(b"1e999"),
    "a huge number": write(b"1" * 100_000),
    "nested deep": write(DEEP),
    "no text": write(b"\xff\xfe\x00"),
    "of another step": replaced('"step": 2', '"step": 7'),
    "of a step that is no number": replaced('"step": 2', '"step": NaN'),
    "without a key": replaced('"step": 2, ', ""),
    "of other settings": replaced('"lr", 0.1', '"lr", 0.9'),
    "null, agreed": agreed(write(b"null")),
    "a list, agreed": agreed(write(b"[]")),
    "without the optimizer, agreed": agreed(write(b'{"step": 2}')),
    "of another form, agreed": agreed(write(b'{"optimizer": {"pairs": 5}}')),
    "with a tensor that is not there, agreed": agreed(write(b'{"optimizer": {"tensor": "99"}}')),
    "nested deep, agreed": agreed(write(DEEP)),
    "missing": gone,
    "a folder": folder,
    "a pipe": pipe,
}
SUMS_DAMAGE = {
    "missing": gone,
    "empty": cut(0),
    "cut in half": half,
    "with a flipped bit": flipped(5),
    "one word a line": write(b"checksum\n"),
    "no text": write(b"\xff\xfe\x00"),
    "a folder": folder,
}
CHECKPOINT = {
    **{f"model {kind}": ("model.safetensors", damage) for kind, damage in TENSOR_DAMAGE.items()},
    **{f"{name} cut in half": (name, half) for name in ("trainer.safetensors", "optimizer.safetensors")},
    **{f"state {kind}": ("state.json", damage) for kind, damage in STATE_DAMAGE.items()},
    **{f"checksums {kind}": ("SHA256SUMS", damage) for kind, damage in SUMS_DAMAGE.items()},
    "checkpoint missing": ("", gone),
    "checkpoint is an empty folder": ("", folder),
    "checkpoint is a file": ("", file),
    "checkpoint is a link to itself": ("", loop),
    "checkpoint is a link to nothing": ("", dangling),
}


def saved(place, step):
    trainer = {
        "tensors": {"bank": torch.full((3,), float(step))},
        "optimizer": {"state": {0: {"moment": torch.full((2,), float(step))}}, "param_groups": [{"lr": 0.1}]},
    }
    save_checkpoint(place, {"weight": torch.full((2, 3), float(step))}, trainer, {"step": step, "best": 0.5})


@pytest.mark.parametrize("kind", CHECKPOINT)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_read(tmp_path, capsys, kind):
    for step in (1, 2):
        saved(tmp_path / "last", step)
    name, damage = CHECKPOINT[kind]
    damage(tmp_path / "last" / name if name else tmp_path / "last")
    weights, trainer, state, warning = load_checkpoint(tmp_path / "last")
    assert {name: weight.tolist() for name, weight in weights.items()} == {"weight": [[1.0] * 3] * 2}
    assert trainer["tensors"]["bank"].tolist() == [1.0] * 3
    assert trainer["optimizer"]["state"][0]["moment"].tolist() == [1.0] * 2
    assert trainer["optimizer"]["param_groups"] == [{"lr": 0.1}]
    assert state == {"step": 1, "best": 0.5}
    assert Run(tmp_path).weights().keys() == {"weight"}
    assert capsys.readouterr().out == f"Note: {warning}\n"
    saved(tmp_path / "last", 3)
    assert load_checkpoint(tmp_path / "last")[2:] == ({"step": 3, "best": 0.5}, None)
