"""The search for images that are there twice.

Two images count as the same if their pixels are identical, or if one is a copy of the other that was encoded, scaled or brightened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8, UInt64
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

SIDE = 32  # pixels of a thumbnail; all comparisons but that of identical pixels work on thumbnails
CHUNK = 1024  # images, or pairs, at once
FLAT = 2.0  # standard deviation of a thumbnail, in gray levels of 256, below which there is nothing to compare
MOST = 5_000_000  # pairs of nearly equal hashes; more than these are frames of films, not faults of a data set
# The three thresholds were chosen on all pairs of training and validation images of miniImageNet, Omniglot and glyphs.
NEAR = 6  # so many of 64 bits of two hashes may differ; 8 would give 14 wrong copies across the splits of Omniglot, 6 give none
COPIES = 0.98  # correlation of the thumbnails of a copy; finds 91 to 99 % of re-encoded, brightened or halved images
ALIKE = 0.93  # correlation from which two images are listed to be looked at; finds two thirds of the copies moved by one pixel

Parts = Sequence[UInt8[Tensor, "_ channels height width"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Duplicates:
    """Pairs of images that are the same or look the same. Images are numbered through all parts, one after the other.

    - `pairs [P, 2]`: pairs `i < j`. Of several images with identical pixels, the first is paired with each of the others.
    - `identical [P]`: whether the pixels are identical. `bits [P]`: in how many of 64 bits the hashes differ.
    - `correlation [P]`: that of the thumbnails.
    - `flat [F]`: images of nearly one color. They are compared by their pixels only.
    """

    pairs: Int64[np.ndarray, "pair two"]
    identical: Bool[np.ndarray, " pair"]
    bits: Int64[np.ndarray, " pair"]
    correlation: Float32[np.ndarray, " pair"]
    flat: Int64[np.ndarray, " flat"]


def find_duplicates(parts: Parts, owners: Int64[np.ndarray, " item"], near: int | None = NEAR) -> Duplicates:
    """Find the pairs of images in all `parts` that have identical pixels or look the same.

    Two images look the same if their hashes differ in at most `near` of 64 bits and the correlation of their thumbnails is at least
    0.93. With `near=None` only identical pixels count. `owners [N]` is the class of each image, numbered through all parts. Of
    identical images of one class, only the first is compared with other images.

    >>> import torch
    >>> images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    >>> images[2] = images[0]
    >>> find_duplicates([images], owners=np.array([0, 0, 1])).pairs.tolist()
    [[0, 2]]

    **Raises:** what `near_pairs` raises.
    """
    groups = pixel_groups(parts)
    exact = identical_pairs(groups)
    small = thumbnails(parts)
    contrast = np.concatenate([small[i : i + CHUNK].std(axis=(1, 2)) for i in range(0, len(small), CHUNK)])
    flat = np.flatnonzero(contrast < FLAT)
    if near is None:
        close, bits = np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int64)
    else:
        _, first = np.unique(np.stack([groups, owners]), axis=1, return_index=True)
        kept = np.setdiff1d(first, flat)
        close, bits = near_pairs(perceptual_hash(small[kept]), near)
        close = kept[close]
    similar = correlation(small, close)
    same = (similar >= ALIKE) & (groups[close[:, 0]] != groups[close[:, 1]])
    none, ones = np.zeros(len(exact), dtype=np.int64), np.ones(len(exact), dtype=np.float32)
    return Duplicates(
        pairs=np.concatenate([exact, close[same]]),
        identical=np.arange(len(exact) + same.sum()) < len(exact),
        bits=np.concatenate([none, bits[same]]),
        correlation=np.concatenate([ones, similar[same]]),
        flat=flat,
    )


def pixel_groups(parts: Parts) -> Int64[np.ndarray, " item"]:
    """A number for each image of all `parts`, `[N]`. Two numbers are equal exactly where the pixels are."""
    numbers: dict[bytes, int] = {}
    groups = np.empty(sum(map(len, parts)), dtype=np.int64)
    images = itertools.chain.from_iterable(part.numpy() for part in parts)
    for i, image in enumerate(tqdm(images, "identical images", len(groups), disable=None, leave=False, unit="img")):
        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        groups[i] = numbers.setdefault(key, len(numbers))
    return groups


def identical_pairs(groups: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, "pair two"]:
    """The pairs in groups of several images, `[P, 2]`: the first image of a group with each of the others."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    partner = first[inverse]
    others = np.flatnonzero(partner != np.arange(len(groups)))
    return np.stack([partner[others], others], axis=1)


def thumbnails(parts: Parts) -> UInt8[np.ndarray, "item side side"]:
    """Small gray versions of the images of all `parts`, `[N, 32, 32]`. Gray is the mean of the channels."""
    small = np.empty((sum(map(len, parts)), SIDE, SIDE), dtype=np.uint8)
    chunks = [chunk for part in parts for chunk in part.split(CHUNK)]
    done = 0
    with tqdm(total=len(small), desc="thumbnails", unit="img", disable=None, leave=False) as bar:
        for chunk in chunks:
            gray = chunk.to(torch.float32).mean(dim=1, keepdim=True)
            scaled = interpolate(gray, size=(SIDE, SIDE), mode="bilinear", antialias=True).round().clamp(0, 255)
            small[done : done + len(chunk)] = scaled[:, 0].to(torch.uint8)
            done += len(chunk)
            bar.update(len(chunk))
    return small


def perceptual_hash(small: UInt8[np.ndarray, "item side side"]) -> UInt64[np.ndarray, " item"]:
    """A hash of 64 bits for each thumbnail. Few of its bits change when an image is encoded, scaled or brightened.

    Bit `(u, v)` says whether the coefficient of frequency `(u + 1, v + 1)`, of 8 x 8 in the discrete cosine transform, is above the
    median of the 64. The constant row and column are left out, so brightness and contrast do not matter.

    Zauner: *Implementation and Benchmarking of Perceptual Image Hash Functions*, 2010,
    http://phash.org/docs/pubs/thesis_zauner.pdf, chapter 3.2.1. Departure: no mean filter before, since the scaling to 32 pixels
    has one.
    """
    from scipy.fft import dct

    basis = dct(np.eye(SIDE), axis=0, norm="ortho")[1:9].astype(np.float32)
    codes = np.empty(len(small), dtype=np.uint64)
    for start in range(0, len(small), CHUNK):
        chunk = small[start : start + CHUNK].astype(np.float32)
        frequencies = (basis @ chunk @ basis.T).reshape(len(chunk), 64)
        bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
        codes[start : start + CHUNK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return codes


def near_pairs(
    codes: UInt64[np.ndarray, " item"], near: int = NEAR, most: int = MOST
) -> tuple[Int64[np.ndarray, "pair two"], Int64[np.ndarray, " pair"]]:
    """All pairs `i < j` of codes that differ in at most `near` bits, `[P, 2]`, and the number of these bits, `[P]`.

    The 64 bits are divided into `near + 1` parts. Two such codes agree in at least one part, so only codes that agree in a part are
    compared, and memory grows with N and P, not with N squared.

    **Raises:** `ValueError` for `near` outside 0..16, or where there are more than `most` pairs.
    """
    if not 0 <= near <= 16:
        raise ValueError(f"near must be a number of bits in 0..16, of 64, got {near}")
    edges = [64 * k // (near + 1) for k in range(near + 2)]
    masks = [np.uint64((1 << high) - (1 << low)) for low, high in itertools.pairwise(edges)]
    found, total = [np.empty((0, 2), dtype=np.int64)], 0
    for number, mask in enumerate(tqdm(masks, "nearly equal images", disable=None, leave=False)):
        order = np.argsort(codes & mask, kind="stable")
        ordered = codes[order]
        keys = ordered & mask
        # Equal keys stand together: partners are the next one, the next but one, ... of the same key.
        first = np.arange(len(codes))
        for step in itertools.count(1):
            first = first[: np.searchsorted(first, len(codes) - step)]
            first = first[keys[first] == keys[first + step]]
            if len(first) == 0:
                break
            differ = ordered[first] ^ ordered[first + step]
            new = np.bitwise_count(differ) <= near
            for earlier in masks[:number]:
                new &= differ & earlier != 0  # a pair that agrees in an earlier part was found there
            hits = first[new]
            total += len(hits)
            if total > most:
                raise ValueError(f"more than {most:,} pairs of images are within {near} bits")
            found.append(np.stack([order[hits], order[hits + step]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    return pairs, np.bitwise_count(codes[pairs[:, 0]] ^ codes[pairs[:, 1]]).astype(np.int64)


def correlation(
    small: UInt8[np.ndarray, "item side side"], pairs: Int64[np.ndarray, "pair two"]
) -> Float32[np.ndarray, " pair"]:
    """Pearson's correlation of the pixels of two thumbnails, for each of `pairs`; 0 where one of them has a single color."""
    values = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), CHUNK):
        pixels = small[pairs[start : start + CHUNK]].reshape(-1, 2, SIDE * SIDE).astype(np.float32)
        pixels -= pixels.mean(axis=2, keepdims=True)
        norms = np.linalg.norm(pixels, axis=2).prod(axis=1)
        values[start : start + CHUNK] = (pixels[:, 0] * pixels[:, 1]).sum(axis=1) / np.maximum(norms, 1e-6)
    return values
