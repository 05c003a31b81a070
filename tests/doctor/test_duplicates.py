"""Duplicates that were made are found, others are not, and the search equals a loop over all pairs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.fft import dctn

from episodic.doctor.duplicates import (
    ALIKE,
    COPIES,
    correlation,
    find_duplicates,
    identical_pairs,
    near_pairs,
    perceptual_hash,
    pixel_groups,
    thumbnails,
)


def photographs(count, seed=0, size=84):
    """Color images, amplitudes falling with the frequency as in photographs: uint8 `[N, 3, size, size]`."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    noise = random.normal(size=(count, 3, size, size)) + 2 * random.normal(size=(count, 1, size, size))
    images = np.fft.irfft2(np.fft.rfft2(noise) / frequency**1.3, s=(size, size))
    images = 128 + 45 * images / images.std(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


def drawings(count, seed=0, size=28):
    """Three random strokes each, light on dark: uint8 `[N, 1, size, size]`."""
    random, images = np.random.default_rng(seed), []
    for _ in range(count):
        image = Image.new("L", (4 * size, 4 * size))
        for line in random.integers(12, 4 * size - 12, size=(3, 6)).tolist():
            ImageDraw.Draw(image).line(line, fill=255, width=8)
        images.append(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))[None])
    return torch.from_numpy(np.stack(images))


def encoded(images, quality):
    out = []
    for image in images.numpy():
        file = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
        out.append(np.atleast_3d(np.asarray(Image.open(file))).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(out))


def scaled(images, size):
    small = [Image.fromarray(image.transpose(1, 2, 0)).resize((size, size)) for image in images.numpy()]
    return torch.from_numpy(np.stack([np.asarray(image.resize((84, 84))).transpose(2, 0, 1) for image in small]))


def lit(images, factor, more):
    return (images.float() * factor + more).clamp(0, 255).byte()


CHANGES = {
    "encoded as JPEG": lambda images: encoded(images, 40),
    "darker": lambda images: lit(images, 0.6, 0),
    "lighter, less contrast": lambda images: lit(images, 0.7, 60),
    "half the size": lambda images: scaled(images, 42),
    "gray": lambda images: images.float().mean(1, keepdim=True).expand_as(images).byte(),
    "noisy": lambda images: lit(images, 1, 8 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_other_images_are_not(change):
    originals, others = photographs(40), photographs(100, seed=1)
    found = find_duplicates([originals, torch.cat([others, CHANGES[change](originals)])], np.arange(180))
    assert found.pairs.tolist() == [[i, 140 + i] for i in range(40)]
    assert (found.correlation >= COPIES).mean() > 0.9
    assert not found.identical.any()
    assert len(found.flat) == 0


def test_copies_moved_by_a_pixel_are_found_as_alike():
    images = photographs(40, size=86)
    parts = [images[:, :, 1:-1, 1:-1], images[:, :, 2:, 2:]]
    for near, least in ((6, 20), (12, 30)):
        found = find_duplicates(parts, np.arange(80), near)
        assert found.pairs[:, 0].tolist() == (found.pairs[:, 1] - 40).tolist()
        assert len(found.pairs) >= least
        assert (found.correlation >= ALIKE).all()


def test_mirrored_images_and_different_drawings_are_no_copies():
    images = photographs(60)
    assert len(find_duplicates([images, images.flip(3)], np.arange(120)).pairs) == 0
    strokes = drawings(300)
    found = find_duplicates([strokes, encoded(strokes[:20], 60)], np.arange(320))
    assert found.pairs.tolist() == [[i, 300 + i] for i in range(20)]


def test_identical_images_are_found_within_and_across_parts():
    a, b, c = photographs(5), photographs(4, seed=1), photographs(3, seed=2)
    b[1], b[3], c[2] = a[2], a[2], c[0]
    nearly = a[4].clone()
    nearly[0, 0, 0] ^= 1
    parts = [a, b, torch.cat([c, nearly[None]])]
    everything = torch.cat(parts)
    groups = pixel_groups(parts)
    for i, j in np.ndindex(13, 13):
        assert (groups[i] == groups[j]) == torch.equal(everything[i], everything[j])
    assert identical_pairs(groups).tolist() == [[2, 6], [2, 8], [9, 11]]
    found = find_duplicates(parts, np.zeros(13, dtype=np.int64))
    assert found.pairs.tolist() == [[2, 6], [2, 8], [9, 11], [4, 12]]
    assert found.identical.tolist() == [True, True, True, False]
    assert find_duplicates(parts, np.zeros(13, dtype=np.int64), near=None).pairs.tolist() == [[2, 6], [2, 8], [9, 11]]


def test_a_copy_is_compared_with_identical_images_of_every_class_but_once_in_a_class():
    image = photographs(1)
    images = torch.cat([image, image, image, encoded(image, 40)])
    found = find_duplicates([images], np.array([0, 0, 1, 2]))
    assert found.pairs[found.identical].tolist() == [[0, 1], [0, 2]]
    assert found.pairs[~found.identical].tolist() == [[0, 3], [2, 3]]


def test_blank_pages_are_listed_and_not_taken_for_copies_of_each_other():
    shade = torch.arange(28).outer(torch.arange(28)).div(200, rounding_mode="floor").byte()  # 0 to 3 gray levels
    blank = torch.stack([shade[None] + 200 + i for i in range(30)])
    blank[7] = blank[3]
    one_dot = torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)
    one_dot[0, 0, 12:15, 12:15] = 0
    found = find_duplicates([blank, one_dot], np.arange(31))
    assert found.flat.tolist() == list(range(30))
    assert found.pairs.tolist() == [[3, 7]]


@pytest.mark.parametrize("near", [0, 1, 3, 6, 16])
def test_near_pairs_are_those_of_a_loop_over_all(near):
    random = np.random.default_rng(near)
    codes = random.integers(0, 2**64, size=150, dtype=np.uint64)
    for i in range(100):  # neighbors at all distances up to 20 bits
        flips = random.choice(64, size=i % 21, replace=False).astype(np.uint64)
        codes[i] = codes[100 + i // 10] ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    wanted = {
        (i, j): bits
        for j in range(150)
        for i in range(j)
        if (bits := bin(int(codes[i]) ^ int(codes[j])).count("1")) <= near
    }
    pairs, bits = near_pairs(codes, near)
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(wanted)
    assert bits.tolist() == [wanted[pair] for pair in sorted(wanted)]
    assert len(wanted) >= 5


def test_too_many_pairs_are_refused_and_too_many_bits_too():
    with pytest.raises(ValueError, match="more than 40 pairs of images are within 2 bits"):
        near_pairs(np.zeros(10, dtype=np.uint64), 2, most=40)
    assert len(near_pairs(np.zeros(10, dtype=np.uint64), 2, most=45)[0]) == 45
    with pytest.raises(ValueError, match=r"in 0\.\.16, of 64, got 17"):
        near_pairs(np.zeros(3, dtype=np.uint64), 17)
    assert near_pairs(np.zeros(0, dtype=np.uint64), 2)[0].shape == (0, 2)


def test_the_hash_is_the_sign_of_low_frequencies_about_their_median():
    small = np.concatenate([thumbnails([photographs(5)]), thumbnails([drawings(4)])])
    for image, code in zip(small, perceptual_hash(small), strict=True):
        low = dctn(image.astype(np.float64), norm="ortho")[1:9, 1:9]
        bits = (low > np.median(low)).reshape(-1)
        assert np.unpackbits(np.array([code]).view(np.uint8)).astype(bool).tolist() == bits.tolist()


def test_correlation_is_pearsons():
    small = thumbnails([photographs(6)])
    small[5] = 9
    pairs = np.array([[0, 1], [2, 2], [4, 3], [0, 5]])
    wanted = [np.corrcoef(small[i].reshape(-1), small[j].reshape(-1))[0, 1] for i, j in pairs[:3]]
    assert correlation(small, pairs).tolist() == pytest.approx([*wanted, 0], abs=1e-5)


def test_thumbnails_are_those_of_each_image_alone():
    images = photographs(3)
    wanted = [
        Image.fromarray(image.float().mean(0).numpy()).resize((32, 32), Image.Resampling.BILINEAR) for image in images
    ]
    found = thumbnails([images[:1], images[1:]]).astype(float)
    assert np.abs(found - np.stack([np.asarray(image) for image in wanted])).max() <= 1
