import io
import sys
import types
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodic.data.sets import omniglot
from episodic.data.sets.omniglot import Omniglot, characters

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
CHARACTERS = {"train": 1028, "val": 172, "test": 423}
needs_data = pytest.mark.skipif(not (REAL / "omniglot").is_dir(), reason="needs Omniglot in ../shared/data/omniglot")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))


def png(number):
    """1 bit a pixel, ink 0: the top third is ink, and a spot that differs from drawing to drawing."""
    pixels = np.full((105, 105), 255, np.uint8)
    pixels[:35] = 0
    pixels[60:90, number % 100 : number % 100 + 5] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "PNG")
    return file.getvalue()


def drawings(half="images_background", splits=("val",), each=2):
    """Name and bytes of `each` drawings of every character of the half."""
    wanted = [c for split in splits for c in characters("vinyals", split) if c[0] == half]
    for number, (_, alphabet, character) in enumerate(wanted):
        for drawing in range(1, each + 1):
            yield f"{half}/{alphabet}/{character}/{number:04}_{drawing:02}.png", png(number + drawing)


def write(folder, members, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    members = list(members)
    if packed:
        with zipfile.ZipFile(folder / f"{members[0][0].split('/')[0]}.zip", "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
    else:
        for name, data in members:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def test_the_split_is_vinyals():
    split = {name: characters("vinyals", name) for name in CHARACTERS}
    assert {name: len(set(found)) for name, found in split.items()} == CHARACTERS
    assert len({character for found in split.values() for character in found}) == 1623
    alphabets = {name: {alphabet for _, alphabet, _ in found} for name, found in split.items()}
    assert {name: len(found) for name, found in alphabets.items()} == {"train": 33, "val": 5, "test": 13}
    assert alphabets["train"] & alphabets["test"] == {"Gurmukhi"}
    assert not alphabets["val"] & (alphabets["train"] | alphabets["test"])
    assert sum(alphabet == "Gurmukhi" for _, alphabet, _ in split["train"]) == 41
    assert split["val"][0] == ("images_background", "Armenian", "character01")


def test_lakes_split_is_the_two_halves():
    train, test = characters("lake", "train"), characters("lake", "test")
    assert (len(set(train)), len(set(test))) == (964, 659)
    assert {half for half, _, _ in train} == {"images_background"}
    assert {half for half, _, _ in test} == {"images_evaluation"}
    with pytest.raises(FileNotFoundError, match=r"no validation classes were published.*split_name=vinyals"):
        Omniglot(split_name="lake").store("val")


@pytest.mark.parametrize("folder", ["omniglot", "omniglot-py"])
@pytest.mark.parametrize("packed", [True, False])
def test_both_layouts_are_read(tmp_path, folder, packed):
    write(tmp_path / folder, drawings(), packed)
    store = Omniglot(tmp_path).store("val")
    assert store.images.shape == (172 * 4 * 2, 1, 28, 28)
    assert store.images.amin() == 0
    assert store.images.amax() == 255
    assert (len(store.class_names), len(set(store.item_names))) == (688, 172 * 4 * 2)
    assert store.class_names[:2] == ("Armenian/character01/rot000", "Armenian/character01/rot090")
    assert store.item_names[2] == "images_background/Armenian/character01/0000_01.png#rot090"
    assert store.super_class_names == ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
    for item, label in enumerate(store.labels.tolist()):
        name, turn = store.class_names[label].rsplit("/", 1)
        assert f"/{name}/" in store.item_names[item]
        assert store.item_names[item].endswith("#" + turn)
        assert name.startswith(store.super_class_names[store.super_classes[label]])


def test_ink_is_255_and_rotations_are_anticlockwise(tmp_path):
    write(tmp_path / "omniglot", drawings())
    store = Omniglot(tmp_path).store("val")
    for label, name in enumerate(store.class_names[:80]):
        upright = store.images[store.labels == label - label % 4][0, 0].numpy()
        turned = store.images[store.labels == label][0, 0].numpy()
        np.testing.assert_array_equal(turned, np.asarray(Image.fromarray(upright).rotate(int(name[-3:]))))
    ink = [store.images[store.labels == turn][0, 0] == 255 for turn in range(4)]
    top, left, bottom, right = ink[0][:8], ink[1][:, :8], ink[2][-8:], ink[3][:, -8:]
    assert all(side.all() for side in (top, left, bottom, right))
    assert not any(image.all() for image in ink)


def test_a_drawing_is_decoded_once(tmp_path, monkeypatch):
    write(tmp_path / "omniglot", drawings())
    calls = Counter()
    whole = omniglot.decode_image
    monkeypatch.setattr(omniglot, "decode_image", lambda *a, **k: calls.update(n=1) or whole(*a, **k))
    Omniglot(tmp_path).store("val")
    assert calls["n"] == 172 * 2
    Omniglot(tmp_path, download=True).store("val")  # where files come from is no part of the cache's key
    assert calls["n"] == 172 * 2


def test_without_rotations_a_character_is_a_class(tmp_path):
    write(tmp_path / "omniglot", drawings())
    store = Omniglot(tmp_path, image_size=20, rotations=False).store("val")
    assert store.images.shape == (344, 1, 20, 20)
    assert store.class_names[0] == "Armenian/character01"
    assert store.item_names[0] == "images_background/Armenian/character01/0000_01.png"


def test_lakes_background_is_read(tmp_path):
    write(tmp_path / "omniglot", drawings(splits=("train", "val"), each=1))
    store = Omniglot(tmp_path, split_name="lake", rotations=False).store("train")
    assert (len(store.class_names), len(store.super_class_names), store.split_name) == (964, 30, "lake")


def test_the_layout_is_printed_where_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)images_background.zip.*<Alphabet>/.*download=true.*data_dir="):
        Omniglot(tmp_path).store("val")


def test_an_incomplete_copy_is_refused(tmp_path):
    write(tmp_path / "omniglot", (m for m in drawings() if "Hebrew/character07" not in m[0]))
    with pytest.raises(ValueError, match=r"1 of 172 characters are missing .*Hebrew/character07"):
        Omniglot(tmp_path).store("val")


def test_files_that_are_no_drawings_are_left_out(tmp_path):
    junk = [
        ("__MACOSX/images_background/Hebrew/character01/._0001_01.png", b"?"),
        ("images_background/notes.txt", b"?"),
    ]
    write(tmp_path / "omniglot", [*drawings(), *junk])
    assert len(Omniglot(tmp_path).store("val")) == 172 * 4 * 2


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b""], ids=["truncated", "empty"])
def test_a_damaged_drawing_is_named_or_skipped(tmp_path, packed, damage):
    bad = "images_background/Hebrew/character01/0109_02.png"
    write(tmp_path / "omniglot", ((n, damage(d) if n == bad else d) for n, d in drawings()), packed)
    with pytest.raises(ValueError, match=rf"4 of 1376 images cannot be read:\n  {bad}#rot000: "):
        Omniglot(tmp_path).store("val")
    store = Omniglot(tmp_path, corrupt="skip").store("val")
    assert [name for name, _ in store.skipped] == [f"{bad}#rot{angle:03}" for angle in (0, 90, 180, 270)]
    assert len(store) == 172 * 4 * 2 - 4
    assert Counter(store.labels.tolist()) == Counter(
        {c: 1 if name.startswith("Hebrew/character01/") else 2 for c, name in enumerate(store.class_names)}
    )


def test_a_drawing_that_unpacks_to_megabytes_is_not_read(tmp_path):
    bad = "images_background/Hebrew/character01/0109_02.png"
    write(tmp_path / "omniglot", ((n, d + bytes(1 << 20) if n == bad else d) for n, d in drawings()))
    with pytest.raises(
        ValueError, match=rf"{bad}#rot000: .*damaged in images_background\.zip: a drawing of more than 1 MiB"
    ):
        Omniglot(tmp_path).store("val")


def test_a_zip_that_is_damaged_is_named(tmp_path):
    write(tmp_path / "omniglot", drawings())
    file = tmp_path / "omniglot" / "images_background.zip"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(png(3), png(3)[:-20] + bytes(20), 1))  # one member no longer fits its checksum
    with pytest.raises(ValueError, match=r"damaged in images_background\.zip"):
        Omniglot(tmp_path).store("val")
    file.write_bytes(whole[:5000])
    with pytest.raises(ValueError, match=r"images_background\.zip is no whole zip file .*delete it"):
        Omniglot(tmp_path).store("val")


def test_missing_data_is_downloaded_when_asked(tmp_path, monkeypatch):
    asked = []

    def release(root, background, download):
        asked.append((background, download))
        half = "images_background" if background else "images_evaluation"
        write(Path(root) / "omniglot-py", drawings(half, ("val",) if background else ("test",)))

    monkeypatch.setitem(sys.modules, "torchvision.datasets", types.SimpleNamespace(Omniglot=release))
    assert len(Omniglot(tmp_path, download=True).store("test").class_names) == 1692
    assert asked == [(True, True), (False, True)]
    Omniglot(tmp_path, download=True).store("val")
    assert len(asked) == 2


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_split_name_is_refused():
    with pytest.raises(ValueError, match="split_name must be one of vinyals, lake, got 'ravi'"):
        Omniglot(split_name="ravi")


@needs_data
@pytest.mark.realdata
def test_real_omniglot_has_the_published_counts():
    seen = set()
    for split, (classes, items) in {"train": (4112, 82_240), "val": (688, 13_760), "test": (1692, 33_840)}.items():
        store = Omniglot(REAL).store(split)
        assert (len(set(store.class_names)), len(set(store.item_names)), len(store)) == (classes, items, items)
        assert set(Counter(store.labels.tolist()).values()) == {20}
        ink = store.images.float().mean((1, 2, 3)) / 255
        assert ink.min() > 0
        assert ink.max() < 0.5
        found = {name.rsplit("/", 1)[0] for name in store.class_names}
        assert len(found) == CHARACTERS[split]
        assert not seen & found
        seen |= found
    assert len(seen) == 1623
