"""Images that are there twice: identical pixels, and copies that were encoded, scaled or lit anew."""

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

SIDE = 32  # pixels of the thumbnails that all comparisons but that of identical pixels work on
CHUNK = 1024  # images, or pairs, at once
FLAT = 2.0  # standard deviation of a thumbnail, in gray levels of 256, below which there is nothing to compare
MOST = 5_000_000  # pairs of nearly equal hashes; more are no faults of a data set, but frames of films
# Measured on miniImageNet (48,000 images of train and val, 1.2 billion pairs), Omniglot with rotations (129,840, 8.4 billion) and
# glyphs (25,360): 21, 24,000 and 3,000 pairs are within NEAR bits. Of these COPIES are 9, all of them right; 21, all inside one
# split, strokes that a turn brings upon others; and none. With 8 bits there would be 14 wrong ones across the splits of Omniglot.
# Of changed copies of 3,000 images of miniImageNet are found: JPEG of quality 30, gamma 0.7 or half the size 99%, 40 gray levels
# lighter 98%, 1.3 times as bright (which clips) 91%. ALIKE adds copies moved by a pixel of 84 (67% of them) or cut by 2% (52%), but
# also 480 pairs of Omniglot's simplest drawings. A difference hash would have some 80 wrong pairs in miniImageNet at 0 bits.
NEAR = 6  # of 64 bits
COPIES, ALIKE = 0.98, 0.93  # correlation of two thumbnails

Parts = Sequence[UInt8[Tensor, "_ channels height width"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Duplicates:
    """Pairs of images that are the same, or look it. Images are numbered through all parts.

    - `pairs [P, 2]`: `i < j`. Of several images with identical pixels, the first with each of the others.
    - `identical [P]`: whether the pixels are; `bits [P]`: of 64, in which the hashes differ; `correlation [P]` of thumbnails.
    - `flat [F]`: images of a single color, nearly; they are compared by their pixels only.
    """

    pairs: Int64[np.ndarray, "pair two"]
    identical: Bool[np.ndarray, " pair"]
    bits: Int64[np.ndarray, " pair"]
    correlation: Float32[np.ndarray, " pair"]
    flat: Int64[np.ndarray, " flat"]


def find_duplicates(parts: Parts, owners: Int64[np.ndarray, " item"], near: int | None = NEAR) -> Duplicates:
    """The pairs of images in all `parts` with identical pixels; and, unless `near` is None, those whose hashes differ in at most
    `near` of 64 bits and whose thumbnails have a correlation of at least 0.93.

    `owners [N]`: the class of each image, numbered through all parts. Among identical images of one class, only the first is
    compared with those that are not identical.

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
    """`[N]`: a number for each image of all `parts`; equal exactly for equal pixels."""
    numbers: dict[bytes, int] = {}
    groups = np.empty(sum(map(len, parts)), dtype=np.int64)
    images = itertools.chain.from_iterable(part.numpy() for part in parts)
    for i, image in enumerate(tqdm(images, "identical images", len(groups), disable=None, leave=False, unit="img")):
        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        groups[i] = numbers.setdefault(key, len(numbers))
    return groups


def identical_pairs(groups: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, "pair two"]:
    """`[P, 2]`: of each group of several images, the first with each of the others."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    partner = first[inverse]
    others = np.flatnonzero(partner != np.arange(len(groups)))
    return np.stack([partner[others], others], axis=1)


def thumbnails(parts: Parts) -> UInt8[np.ndarray, "item side side"]:
    """`[N, 32, 32]`: the images of all `parts`, one after the other, in gray (the mean of the channels) and small."""
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
    """`[N]`: 64 bits for each thumbnail `[N, 32, 32]`, few of which change when the image is encoded, scaled or lit anew.

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
    """All pairs `i < j` of `codes [N]` that differ in at most `near` bits, as `[P, 2]`, and in how many they do, `[P]`.

    Of `near + 1` stretches of the 64 bits, two such codes share at least one, so only codes that share one are compared: memory
    grows with N and P, not with N squared.

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
                new &= differ & earlier != 0  # else the pair was met there
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
    """`[P]`: Pearson's correlation of the pixels of two thumbnails, for each of `pairs [P, 2]`; 0 where one has one color."""
    values = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), CHUNK):
        pixels = small[pairs[start : start + CHUNK]].reshape(-1, 2, SIDE * SIDE).astype(np.float32)
        pixels -= pixels.mean(axis=2, keepdims=True)
        norms = np.linalg.norm(pixels, axis=2).prod(axis=1)
        values[start : start + CHUNK] = (pixels[:, 0] * pixels[:, 1]).sum(axis=1) / np.maximum(norms, 1e-6)
    return values
