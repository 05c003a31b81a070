import dataclasses
import errno
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate

from episodic import EpisodeCollate, EpisodeSampler
from episodic.data.cache import ImageFile, build_store, decode_parallel
from episodic.data.dataset import PART
from episodic.data.image import decode_image
from episodic.data.store import Listing
from episodic.episodes.collate import Items
from tests.conftest import random_store

LISTING = Listing(items=[10, 20, 30], labels=[0, 0, 1], class_names=["a", "b"], item_names=["x", "y", "z"], stamp="1")
WHERE = dict(shape=(1, 2, 2), key="k", dataset="made", split="train", split_name="up")


def render(listing, out):
    def decode(value):
        if value == "broken":
            raise ValueError("no picture")
        return np.full((1, 2, 2), value, np.uint8)

    return decode_parallel(listing.items, decode, out, title="made")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    return tmp_path / "stores"


def test_is_built_once_and_again_when_the_data_change(cache):
    calls = []

    def counted(listing, out):
        calls.append(listing.stamp)
        return render(listing, out)

    for stamp in ("1", "1", "2"):
        store = build_store(dataclasses.replace(LISTING, stamp=stamp), counted, **WHERE)
        assert store.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert calls == ["1", "2"]
    assert len(list(cache.iterdir())) == 2


def test_a_build_that_dies_leaves_nothing(cache):
    def dying(listing, out):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(LISTING, dying, **WHERE)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(cache):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def filling(listing, out):
        out._file = Full()
        return render(listing, out)

    with pytest.raises(OSError, match=r"made train: No space .* has no room for 12 bytes .* EPISODIC_CACHE") as told:
        build_store(LISTING, filling, **WHERE)
    assert told.value.errno == errno.ENOSPC
    assert list(cache.iterdir()) == []


def test_rows_of_a_file_take_what_rows_of_an_array_take(tmp_path):
    images = np.arange(7 * 3 * 2 * 2, dtype=np.uint8).reshape(7, 3, 2, 2)
    array = np.zeros_like(images)
    with (tmp_path / "images.npy").open("wb") as file:
        for out in (array, ImageFile(file, images.shape)):
            assert (len(out), out.shape) == (7, (7, 3, 2, 2))
            out[1:3] = images[:2]
            out[2] = images[1, 0]  # the same for each channel
            out[[6, 0, 3]] = images[4:]  # neither in order nor beside one another
            out[np.arange(7) == 4] = np.moveaxis(images[2:3].transpose(0, 2, 3, 1).copy(), -1, 1)
        with pytest.raises(TypeError, match=r"images are assigned whole: out\[row\] = image"):
            out[0, 1] = images[0, 1]
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), array)  # row 5 was never assigned


def test_broken_images_are_named_or_left_out_whatever_was_cached_first():
    listing = dataclasses.replace(LISTING, items=[10, "broken", 30])
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"(?s)made train: 1 of 3 images cannot be read.*  y: no picture.*corrupt=skip"
        ):
            build_store(listing, render, **WHERE)
        store = build_store(listing, render, corrupt="skip", **WHERE)
        assert store.skipped == (("y", "no picture"),)
        assert store.item_names == ("x", "z")
        assert store.labels.tolist() == [0, 1]
        assert store.images[:, 0, 0, 0].tolist() == [10, 30]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(item_names=["x", "y", "x"]), "x is listed twice"),
        (dict(items=[], labels=[], item_names=[]), "no images found"),
    ],
)
def test_listings_that_cannot_be_used(change, message):
    with pytest.raises(ValueError, match=message):
        build_store(dataclasses.replace(LISTING, **change), render, **WHERE)


def test_gather_takes_any_shape_and_the_hash_names_the_classes():
    store = random_store()
    index = torch.tensor([[3, 0], [5, 3]])
    assert torch.equal(store.gather(index), store.images[index])
    assert store[7][1] == store.labels[7]
    turned = dataclasses.replace(store, class_names=store.class_names[::-1])
    assert turned.class_hash == store.class_hash != random_store(split="val").class_hash


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loader_gets_what_single_items_make(workers):
    store = random_store()
    chosen = [7, 0, 150, 33, 34, 2]
    for data, rows in ((store, range(len(store))), (Subset(store, chosen), chosen)):
        singles = [store[i] for i in rows]
        for number, batch in enumerate(DataLoader(data, batch_size=4, num_workers=workers)):
            expected = default_collate(singles[4 * number : 4 * number + 4])
            assert type(batch) is type(expected)
            for ours, theirs in zip(batch, expected, strict=True):
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)


def test_episodes_of_a_loader_are_gathered_at_once(monkeypatch):
    store = random_store()
    sampler = EpisodeSampler(store.labels, 3, 2, 4, episodes=10, episodes_per_batch=5)
    monkeypatch.delattr(type(store), "__getitem__")
    monkeypatch.setattr(Items, "__getitem__", None)
    loader = DataLoader(store, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))
    for number, episode in enumerate(loader):
        indices = sampler.batch(number)
        assert torch.equal(episode.task.support, store.images[torch.from_numpy(indices.support)])
        assert torch.equal(episode.task.query, store.images[torch.from_numpy(indices.query)])
        assert np.array_equal(episode.query_y, indices.query_y)
        assert np.array_equal(episode.class_ids, indices.class_ids)
    assert number == 1


def saved(tmp_path, image, name, **how):
    image.save(tmp_path / name, **how)
    return tmp_path / name


def test_pictures_of_every_mode_are_decoded(tmp_path):
    gray = Image.fromarray(np.full((6, 6), 100, np.uint8))
    for mode, name in (
        ("L", "g.png"),
        ("RGB", "c.png"),
        ("CMYK", "k.jpg"),
        ("P", "p.png"),
        ("LA", "la.png"),
        ("1", "b.png"),
    ):
        array = decode_image(saved(tmp_path, gray.convert(mode), name), channels=3, size=4)
        assert array.shape == (3, 4, 4)
        assert array.dtype == np.uint8
        if mode not in ("1", "CMYK"):
            assert (array == 100).all()
    deep = Image.fromarray(np.full((6, 6), 100 * 257, np.uint16))
    assert (decode_image(saved(tmp_path, deep, "deep.png"), channels=1, size=6) == 100).all()


def test_what_is_transparent_becomes_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decode_image(saved(tmp_path, clear, "clear.png"), channels=3, size=4) == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.array([[0, 255], [0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned = decode_image(saved(tmp_path, image, "turned.png", exif=exif), channels=1, size=2)
    assert turned[0].tolist() == [[0, 0], [255, 255]]


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("where", ["exif", "xmp"])
def test_a_jpeg_lies_as_its_notes_say(tmp_path, where):
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, 1).repeat(16, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, image, "turned.jpg", **{where: exif if where == "exif" else XMP})
    turned = decode_image(path, channels=1, size=16)[0]
    assert turned[:8].max() == 0
    assert turned[8:].min() == 255


def test_files_of_any_size_and_other_things_than_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "noise.png")
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
    path = saved(tmp_path, Image.fromarray(wide), "wide.png")
    assert decode_image(path, channels=1, size=8, resize="crop")[0, :, 1:-1].min() == 255
    assert decode_image(path, channels=1, size=8)[0, :, 0].max() == 0
