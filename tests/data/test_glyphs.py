import numpy as np
import pytest
import torch

from episodic import EpisodeSampler
from episodic.data import glyphs
from episodic.data.dataset import SPLITS
from episodic.data.glyphs import Glyphs, letters


def drawn(dataset, listing, rows):
    """The drawings of some rows of a listing, uint8 `[n, 1, size, size]`."""
    import dataclasses

    part = dataclasses.replace(listing, items=[listing.items[r] for r in rows])
    out = np.zeros((len(rows), 1, dataset.image_size, dataset.image_size), np.uint8)
    assert dataset.render(part, out) == {}
    return out


def test_splits_share_neither_letter_nor_script():
    listings = [Glyphs().listing(split) for split in SPLITS]
    counts = [len(listing.class_names) for listing in listings]
    assert sum(counts) == len(letters()) >= 1200
    assert min(counts) >= 100
    assert len({name for listing in listings for name in listing.class_names}) == sum(counts)
    scripts = [set(listing.super_class_names) for listing in listings]
    assert all(len(s) == 2 for s in scripts)
    assert len(set.union(*scripts)) == 6
    for listing in listings:
        assert np.bincount(listing.labels).tolist() == [20] * len(listing.class_names)
        of_class = [listing.super_class_names[s] for s in listing.super_classes]
        assert all(name.startswith(script) for name, script in zip(listing.class_names, of_class, strict=True))


def test_letters_that_look_alike_are_one_class_and_belong_to_training():
    kept = set(letters())
    assert {"A", "Ж", "Ω"} <= kept
    assert not {"Α", "А", "о", "ο", "o"} & kept, "copies of Latin A and O, and the small o"


def test_clean_letters_of_two_classes_differ():
    images = np.stack([glyphs._clean(letter, glyphs._faces()[letter][0]).reshape(-1) / 255 for letter in letters()])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    cosines = images @ images.T
    np.fill_diagonal(cosines, 0)
    assert cosines.max() <= glyphs.ALIKE + 1e-6


def test_a_drawing_depends_on_seed_letter_and_number_only():
    dataset = Glyphs()
    listing = dataset.listing("test")
    rows = [0, 7, 20, 399, 1000]
    together = drawn(dataset, listing, rows)
    for k in (3, 0, 4):
        assert np.array_equal(drawn(dataset, listing, [rows[k]])[0], together[k])
    assert np.array_equal(drawn(dataset, listing, rows[::-1])[::-1], together)
    assert not np.array_equal(drawn(Glyphs(seed=1), listing, rows), together)
    more = Glyphs(drawings=30).listing("test")
    assert np.array_equal(drawn(dataset, more, [more.items.index(listing.items[r]) for r in rows]), together)


def test_every_drawing_has_ink_and_no_two_are_equal():
    dataset = Glyphs()
    listing = dataset.listing("val")
    images = drawn(dataset, listing, range(0, len(listing.items), 2)).reshape(-1, 28 * 28)
    assert images.max(axis=1).min() > 200
    share = (images > 127).mean(axis=1)
    assert share.min() > 0.005
    assert share.max() < 0.6
    assert len(np.unique(images, axis=0)) == len(images)


def test_nearest_pixels_are_above_chance_and_far_from_perfect():
    dataset = Glyphs()
    listing = dataset.listing("test")
    images = torch.from_numpy(drawn(dataset, listing, range(1200))).flatten(1).float()
    sampler = EpisodeSampler(listing.labels[:1200], 5, 1, 15, episodes=300)
    indices = sampler[0:300]
    distance = torch.cdist(images[torch.from_numpy(indices.query)], images[torch.from_numpy(indices.support)])
    accuracy = (distance.argmin(-1).numpy() == indices.query_y).mean()
    assert 0.35 < accuracy < 0.8


def test_other_sizes_and_bad_ones():
    dataset = Glyphs(image_size=40, drawings=2)
    assert drawn(dataset, dataset.listing("val"), [0, 1]).shape == (2, 1, 40, 40)
    with pytest.raises(ValueError, match="need image_size >= 8 and drawings >= 1, got 4 and 20"):
        Glyphs(image_size=4)


def test_the_store_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    first = Glyphs(drawings=1).store("val")

    def never(self, listing, out):
        raise AssertionError("drawn again")

    monkeypatch.setattr(Glyphs, "render", never)
    again = Glyphs(drawings=1).store("val")
    assert torch.equal(first.images, again.images)
    assert first.class_names[0].startswith(("GEORGIAN", "LAO"))
