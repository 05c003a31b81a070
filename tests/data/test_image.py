"""Pictures of any kind become one array, and what cannot is said."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from episodic.data.image import (
    PART,
    PictureForm,
    as_pictures,
    class_folders,
    decode_image,
    pictures_in,
    read_pictures,
)

RANDOM = np.random.default_rng(0)
COLOR = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
FORM = PictureForm(3, 12, resize="squash")


def save(folder: Path, name: str, image: Image.Image, **options) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_pictures_of_every_mode_are_converted(tmp_path):
    color, gray = Image.fromarray(COLOR), Image.fromarray(COLOR[..., 0])
    turned = Image.Exif()
    turned[0x0112] = 3  # by 180 degrees
    paths = [
        save(tmp_path, "plain.png", color),
        save(tmp_path, "alpha.png", Image.merge("RGBA", [*color.split(), Image.new("L", color.size, 255)])),
        save(tmp_path, "clear.png", Image.new("RGBA", color.size, (0, 0, 0, 0))),
        save(tmp_path, "cmyk.tif", color.convert("CMYK")),
        save(tmp_path, "deep.png", Image.fromarray(COLOR[..., 0].astype(np.uint16) * 257)),
        save(tmp_path, "turned.png", color.transpose(Image.Transpose.ROTATE_180), exif=turned),
        save(tmp_path, "tiny.png", Image.new("RGB", (1, 1), (9, 8, 7))),
        save(tmp_path, "long.png", Image.new("L", (1, 900), 50)),
    ]
    pictures, kept, failed = read_pictures(paths, 3, 12)
    assert (kept, failed, pictures.shape) == (paths, {}, (8, 3, 12, 12))
    resized = np.asarray(color.resize((12, 12), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    deep = np.asarray(gray.resize((12, 12), Image.Resampling.BILINEAR))
    for row, wanted in ((0, resized), (1, resized), (2, 255), (5, resized), (7, 50)):
        np.testing.assert_array_equal(pictures[row], np.broadcast_to(wanted, (3, 12, 12)))
    np.testing.assert_array_equal(pictures[4], np.broadcast_to(deep, (3, 12, 12)))
    np.testing.assert_allclose(pictures[3].astype(int), resized, atol=2)
    assert (pictures[6] == np.array([9, 8, 7])[:, None, None]).all()


def test_what_is_no_picture_is_left_out_with_its_reason(tmp_path, monkeypatch):
    good = save(tmp_path, "good.png", Image.fromarray(COLOR))
    whole = save(tmp_path, "whole.jpg", Image.fromarray(COLOR)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    huge = save(tmp_path, "huge.png", Image.new("1", (300, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 300 // 3)
    names = ["good.png", "cut.jpg", "empty.png", "text.png", "folder.png", "huge.png", "missing.png"]
    pictures, kept, failed = read_pictures([tmp_path / name for name in names], 3, 12)
    assert (len(pictures), kept, huge in failed) == (1, [good], True)
    reasons = {path.name: reason for path, reason in failed.items()}
    for name, reason in {
        "cut.jpg": "truncated",
        "empty.png": "the file is empty",
        "text.png": "it is not an image",
        "folder.png": "Is a directory",
        "huge.png": "decompression bomb",
        "missing.png": "No such file",
    }.items():
        assert re.search(reason, reasons[name]), reasons
    assert str(tmp_path) not in str(list(reasons.values()))


def test_classes_are_folders_and_hidden_files_are_not_there(tmp_path):
    for name in ("b/2.PNG", "b/deeper/1.png", "a/1.png", "a/.hidden.png", ".trash/1.png"):
        save(tmp_path, name, Image.new("L", (4, 4)), format="PNG")
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "README.md").touch()
    found = class_folders(tmp_path)
    assert list(found) == ["a", "b"]
    assert {name: [str(p.relative_to(tmp_path / name)) for p in files] for name, files in found.items()} == {
        "a": ["1.png"],
        "b": ["2.PNG", "deeper/1.png"],
    }
    assert [p.name for p in pictures_in(tmp_path)] == ["1.png", "2.PNG", "1.png"]
    assert pictures_in(tmp_path / "a" / "notes.txt") == [tmp_path / "a" / "notes.txt"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no class folders; expected <folder>/<class name>/<picture>"),
        (["a/1.png", "b/notes.txt"], "b has no pictures"),
        (["a/1.png", "loose.jpg"], "pictures that are in no class, e.g. loose.jpg"),
    ],
)
def test_a_folder_without_classes_is_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        class_folders(tmp_path)
    for function in (class_folders, pictures_in):
        with pytest.raises(FileNotFoundError, match="no folder"):
            function(tmp_path / "missing")


def test_arrays_images_and_files_give_the_same(tmp_path):
    path = save(tmp_path, "1.png", Image.fromarray(COLOR))
    read = torch.from_numpy(read_pictures([path], 3, 12)[0])
    for items in (
        [path],
        [str(path)],
        [Image.fromarray(COLOR)],
        [COLOR],
        COLOR[None],
        np.array([path], dtype=object),
    ):
        assert torch.equal(as_pictures(items, FORM), read)
    cmyk = Image.fromarray(COLOR).convert("CMYK")
    assert torch.equal(as_pictures([cmyk], FORM), as_pictures([cmyk.convert("RGB")], FORM))
    gray = as_pictures([COLOR[..., 0], COLOR[..., :1]], FORM)
    assert torch.equal(gray[0], gray[1])
    exact = RANDOM.integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    assert torch.equal(as_pictures(exact, FORM), torch.from_numpy(exact.transpose(0, 3, 1, 2)))
    assert torch.equal(as_pictures(as_pictures(exact, FORM), FORM), as_pictures(list(exact), FORM))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("one.png", "must be a list, got one str"),
        ([], "the list is empty"),
        ([COLOR / 255], "picture 0: an array must be uint8 on the scale 0..255, got float64"),
        ([COLOR[..., :2]], r"with 1, 3 or 4 channels, got uint8 \[20, 30, 2\]"),
        ([COLOR[:0]], r"got uint8 \[0, 30, 3\]"),
        ([COLOR, 3], "1 of 2 pictures cannot be read: picture 1: neither a path"),
        (["gone.png"], "gone.png: No such file"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"uint8 \[n, 3, 12, 12\], got torch.uint8 \[2, 3, 8, 8\]"),
        (torch.zeros(2, 3, 12, 12), r"got torch.float32"),
    ],
)
def test_what_cannot_be_a_picture_is_refused(items, message):
    with pytest.raises(ValueError, match=message):
        as_pictures(items, FORM)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 2}, "channels must be one of 1, 3"),
        ({"size": 0}, "size must be"),
        ({"resize": "stretch"}, "resize must be"),
        ({"mean": (0.5,)}, r"mean must be a number for each channel, 3 in all, got \[0.5\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_form_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PictureForm(**settings)


def test_files_of_every_mode_are_decoded(tmp_path):
    gray = Image.fromarray(np.full((6, 6), 100, np.uint8))
    for mode, name in (
        ("L", "g.png"),
        ("RGB", "c.png"),
        ("CMYK", "k.jpg"),
        ("P", "p.png"),
        ("LA", "la.png"),
        ("1", "b.png"),
    ):
        array = decode_image(save(tmp_path, name, gray.convert(mode)), channels=3, size=4)
        assert array.shape == (3, 4, 4)
        assert array.dtype == np.uint8
        if mode not in ("1", "CMYK"):
            assert (array == 100).all()
    deep = Image.fromarray(np.full((6, 6), 100 * 257, np.uint16))
    assert (decode_image(save(tmp_path, "deep.png", deep), channels=1, size=6) == 100).all()


def test_what_is_transparent_becomes_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decode_image(save(tmp_path, "clear.png", clear), channels=3, size=4) == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.array([[0, 255], [0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned = decode_image(save(tmp_path, "turned.png", image, exif=exif), channels=1, size=2)
    assert turned[0].tolist() == [[0, 0], [255, 255]]


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("where", ["exif", "xmp"])
def test_a_jpeg_lies_as_its_notes_say(tmp_path, where):
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, 1).repeat(16, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, "turned.jpg", image, **{where: exif if where == "exif" else XMP})
    turned = decode_image(path, channels=1, size=16)[0]
    assert turned[:8].max() == 0
    assert turned[8:].min() == 255


def test_files_of_any_size_and_other_things_than_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    path = save(tmp_path, "noise.png", Image.fromarray(noise))
    assert path.stat().st_size > 2 * PART
    np.testing.assert_array_equal(decode_image(path, channels=3, size=300), noise.transpose(2, 0, 1))
    (tmp_path / "empty.png").touch()
    for source, message in (
        (tmp_path / "empty.png", "the file is empty"),
        (io.BytesIO(b"x"), "cannot identify image file"),
    ):
        with pytest.raises(OSError, match=f"^{message}$"):
            decode_image(source, channels=3, size=8)


def test_crop_keeps_the_proportions_and_squash_does_not(tmp_path):
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 255
    path = save(tmp_path, "wide.png", Image.fromarray(wide))
    assert decode_image(path, channels=1, size=8, resize="crop")[0, :, 1:-1].min() == 255
    assert decode_image(path, channels=1, size=8)[0, :, 0].max() == 0


def test_a_picture_of_floating_point_numbers_is_refused(tmp_path):
    path = save(tmp_path, "f.tiff", Image.fromarray(np.full((6, 6), 0.5, np.float32)))
    _, _, failed = read_pictures([path], 1, 6)
    assert "floating-point" in failed[path]


def test_no_other_format_is_opened_whatever_the_name(tmp_path, monkeypatch):
    """Pillow reads EPS by another program, which such a file would start."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    _, _, failed = read_pictures([path], 1, 6)
    assert failed == {path: "it is not an image"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_or_a_device_among_pictures_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("episodic.data.image.MOST_PARTS", 4)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    _, kept, failed = read_pictures([tmp_path / "pipe.png", tmp_path / "zero.png"], 1, 6)
    assert kept == []
    assert failed[tmp_path / "pipe.png"] == "the file is empty"
    assert "has more than" in failed[tmp_path / "zero.png"]
