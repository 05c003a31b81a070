import dataclasses

import numpy as np
import pytest
import torch

from episodic import EpisodeSampler
from episodic.data.dataset import SPLITS
from episodic.data.sets import glyphs
from episodic.data.sets.glyphs import Glyphs, letters


def drawn(dataset, listing, rows):
    """The drawings of some rows of a listing, uint8 `[n, 1, size, size]`."""
    part = dataclasses.replace(listing, items=[listing.items[r] for r in rows])
    out = np.zeros((len(rows), 1, dataset.image_size, dataset.image_size), np.uint8)
    assert dataset.render(part, out) == {}
    return out


def test_splits_share_neither_letter_nor_script():
    listings = [Glyphs().listing(split) for split in SPLITS]
    counts = np.array([len(listing.class_names) for listing in listings])
    assert counts.sum() == len(letters()) >= 1200
    assert np.abs(counts / counts.sum() - (0.64, 0.16, 0.2)).max() < 0.04
    assert counts.min() >= 100
    assert len({name for listing in listings for name in listing.class_names}) == counts.sum()
    scripts = [set(listing.super_class_names) for listing in listings]
    assert [len(s) for s in scripts] == [1, 2, 3]
    assert len(set.union(*scripts)) == 6
    for listing in listings:
        assert np.bincount(listing.labels).tolist() == [20] * len(listing.class_names)
        of_class = [listing.super_class_names[s] for s in listing.super_classes]
        assert all(name.startswith(script) for name, script in zip(listing.class_names, of_class, strict=True))


def test_letters_that_look_alike_are_one_class_and_belong_to_training():
    kept = set(letters())
    assert {"A", "B", "C", "I", "O", "Ж", "Ω"} <= kept
    assert not set("ΑАΒВοоСсΟО") & kept, "copies of Latin letters"
    assert not set("cosvwxzжшщэψ") & kept, "differ from their capitals in size alone"
    assert "l" not in kept, "as I without serifs"


def test_letters_that_differ_in_a_part_stay_apart():
    assert set("iIuUeEòóôöñńčćjJøqp") <= set(letters())


@pytest.mark.parametrize("stem", glyphs.COMPARED)
def test_no_two_classes_render_the_same(stem):
    alike = glyphs._alike(letters(), stem)
    assert np.array_equal(alike, alike.T)
    assert alike.diagonal().mean() > 0.95, "a letter is like itself wherever the face has it"
    assert alike.sum() == alike.diagonal().sum()
    paths = {path.stem: path for path in glyphs._fonts()}
    have = [letter for letter in letters() if paths[stem] in glyphs._faces()[letter]]
    assert len({glyphs._clean(letter, paths[stem]).tobytes() for letter in have}) == len(have)


def test_every_face_has_ink_for_its_letters():
    assert all(len(faces) >= glyphs.FACES for faces in glyphs._faces().values())
    blank = [
        (letter, face.stem)
        for letter, faces in glyphs._faces().items()
        for face in faces
        if glyphs._font(face).getmask(letter).getbbox() is None
    ]
    assert not blank


def test_a_drawing_depends_on_seed_letter_and_number_only():
    dataset = Glyphs()
    listing = dataset.listing("test")
    rows = [0, 7, 20, 399, 1000]
    threads = torch.get_num_threads()
    together = drawn(dataset, listing, rows)
    assert torch.get_num_threads() == threads
    assert np.array_equal(drawn(Glyphs(), listing, rows), together)
    for k in (3, 0, 4):
        assert np.array_equal(drawn(dataset, listing, [rows[k]])[0], together[k])
    assert np.array_equal(drawn(dataset, listing, rows[::-1])[::-1], together)
    assert not np.array_equal(drawn(Glyphs(seed=1), listing, rows), together)
    more = Glyphs(drawings=30).listing("test")
    assert np.array_equal(drawn(dataset, more, [more.items.index(listing.items[r]) for r in rows]), together)
    # beside letters of another split, and among enough others that they fall into different batches
    mixed = dataclasses.replace(listing, items=[*dataset.listing("train").items[::20], *listing.items])
    start = len(mixed.items) - len(listing.items)
    among = drawn(dataset, mixed, [*range(0, 50), *(start + r for r in rows)])
    assert np.array_equal(among[50:], together)


def test_two_letters_are_not_bent_alike():
    noise = np.stack([Glyphs()._noise(letter, range(20)) for letter in "AB"])
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.15


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_drawing_has_ink_and_no_two_are_equal(split):
    dataset = Glyphs()
    listing = dataset.listing(split)
    images = drawn(dataset, listing, range(0, len(listing.items), 3)).reshape(-1, 28 * 28)
    assert images.max(axis=1).min() > 200
    share = (images > 127).mean(axis=1)
    assert share.min() > 0.005
    assert share.max() < 0.6
    assert len(np.unique(images, axis=0)) == len(images)


def test_nearest_pixels_are_above_chance_and_far_from_perfect():
    dataset = Glyphs()
    listing = dataset.listing("test")
    rows = [c * 20 + k for c in range(0, 250, 3) for k in range(16)]
    images = torch.from_numpy(drawn(dataset, listing, rows)).flatten(1).float()
    sampler = EpisodeSampler(np.asarray(listing.labels)[rows] // 3, 5, 1, 15, episodes=300)
    indices = sampler[0:300]
    distance = torch.cdist(images[torch.from_numpy(indices.query)], images[torch.from_numpy(indices.support)])
    accuracy = (distance.argmin(-1).numpy() == indices.query_y).mean()
    assert 0.35 < accuracy < 0.6


@pytest.mark.parametrize("size", [8, 40, 84])
def test_other_sizes_show_the_same_drawings(size):
    listing = Glyphs().listing("test")
    rows = range(0, 400, 20)
    small = torch.from_numpy(drawn(Glyphs(), listing, rows)).float()
    other = torch.from_numpy(drawn(Glyphs(image_size=size), listing, rows)).float()
    assert other.shape == (20, 1, size, size)
    side = min(size, 28) // 4
    a, b = (torch.nn.functional.adaptive_avg_pool2d(x, side).flatten(1) for x in (small, other))
    assert torch.cosine_similarity(a, b).min() > 0.9


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="image_size must be an integer, at least 8, got 4"):
        Glyphs(image_size=4)
    with pytest.raises(ValueError, match="drawings must be an integer, at least 1, got 0"):
        Glyphs(drawings=0)


def test_other_fonts_make_another_store(tmp_path, monkeypatch):
    before = Glyphs().listing("val").stamp
    fonts = []
    for path in glyphs._fonts():
        fonts.append(tmp_path / path.name)
        fonts[-1].write_bytes(b"\0" * path.stat().st_size)
    monkeypatch.setattr(glyphs, "_fonts", lambda: tuple(fonts))
    assert Glyphs().listing("val").stamp == before, "a copy elsewhere is the same font"
    fonts[0].write_bytes(b"")
    assert Glyphs().listing("val").stamp != before


def test_the_store_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    first = Glyphs(drawings=1).store("val")

    def never(self, listing, out):
        raise AssertionError("drawn again")

    monkeypatch.setattr(Glyphs, "render", never)
    again = Glyphs(drawings=1).store("val")
    assert torch.equal(first.images, again.images)
    assert {name.split()[0] for name in first.class_names} == {"GREEK", "LAO"}
