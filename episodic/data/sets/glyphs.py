"""Glyphs: letters of six scripts, drawn with the fonts that matplotlib ships; nothing is downloaded."""

from __future__ import annotations

import contextlib
import functools
import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy.special import ndtri
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, max_pool2d, pad
from tqdm import tqdm

from episodic.data.cache import ImageFile
from episodic.data.dataset import AbstractDataset
from episodic.data.store import Listing, digest
from episodic.episodes.arguments import integer

# Latin is most of the letters, so it is trained on; the others make 64/16/20% as nearly as six scripts can.
SCRIPTS = {"train": ("LATIN",), "val": ("GREEK", "LAO"), "test": ("CYRILLIC", "GEORGIAN", "ARMENIAN")}
# Other fonts hold few letters, and LastResort draws the same box for all.
FAMILIES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
# Letters that are the same in one of these, as l and I without serifs, are one class.
COMPARED = ("DejaVuSans", "DejaVuSerif")
FACES = 8  # a letter has at least so many
VERSION = 2  # part of every stamp: raise it when the drawings of a letter change
BOX, INK = 80, 52  # pixels of a clean letter's frame, and of the letter's longer side in it
# Two letters are one class when, pulled into a square of SQUARE pixels, all but STRAY pixels of each lie within REACH of the
# other, and their widths over heights differ by less than a factor exp(ASPECT). The drawings' random stretch hides the rest:
# a Conv4 could not tell c from C, whose images differ more (by cosine) than those of ò and ó, which it could.
SQUARE, REACH, STRAY, ASPECT = 48, 2, 2, 0.35
NOISE = 48  # random numbers of one drawing: 16 for its pose and stroke, 2 x 16 for the elastic field


class Glyphs(AbstractDataset):
    """A data set like Omniglot that needs no download: letters of six scripts, drawn with the fonts that matplotlib ships. Each
    letter is a class of 20 drawings, and no script of the test is in training.

    >>> dataset = Glyphs(image_size=28, drawings=20)  # draws nothing yet; dataset.store("train") does
    >>> dataset.name, dataset.split_name, dataset.channels
    ('glyphs', 'scripts', 1)

    A class is a Unicode letter (its name is the class's name, its script the super-class) that at least 8 of the faces of
    DejaVu and STIX can draw. Letters that look alike whatever their size, as Latin A and Cyrillic А or c and C, are one
    class, which goes to the first of the scripts below. Each drawing takes a face, turns, shears, stretches and moves the
    letter, bends it by a smooth random field, and thickens or thins its strokes.

    **Splits** (`split_name` is `"scripts"`), with the fonts of matplotlib 3.11, 1,268 letters in all:

    - train: 786 (62%), all Latin;
    - val: 220 (17%), Greek 189 and Lao 31;
    - test: 262 (21%), Cyrillic 88, Georgian 116 and Armenian 58.

    Nearest neighbors in pixels are right in 42% of 5-way 1-shot test queries, a ProtoNet on Conv4 in 95%.

    **Arguments:**

    - `image_size`: side of the images, in pixels, at least 8. Default 28. One channel, uint8, ink = 255 on 0.
    - `drawings`: of each letter. Default 20.
    - `seed`: of all drawings. Default 0. A drawing is a function of `(seed, letter, number)`, whatever is drawn with it.

    **Raises:** `ValueError` for a size or a number of drawings below the least; `FileNotFoundError` by `store` where
    matplotlib lacks its fonts.
    """

    name = "glyphs"
    split_name = "scripts"
    channels = 1
    mean = (0.0,)
    std = (1.0,)
    corrupt = "error"

    def __init__(self, image_size: int = 28, drawings: int = 20, seed: int = 0):
        self.image_size = integer("image_size", image_size, at_least=8)
        self.drawings = integer("drawings", drawings, at_least=1)
        self.seed = integer("seed", seed)

    def listing(self, split: str) -> Listing:
        chosen = [letter for letter in letters() if _script(letter) in SCRIPTS[split]]
        names = [unicodedata.name(letter) for letter in chosen]
        scripts = sorted(SCRIPTS[split])
        return Listing(
            items=[(letter, k) for letter in chosen for k in range(self.drawings)],
            labels=np.repeat(np.arange(len(chosen)), self.drawings).tolist(),
            class_names=names,
            item_names=[f"{name}/{k:02}" for name in names for k in range(self.drawings)],
            stamp=digest(str(VERSION), *(f"{path.name} {path.stat().st_size}" for path in _fonts())),
            super_classes=[scripts.index(_script(letter)) for letter in chosen],
            super_class_names=scripts,
        )

    def render(self, listing: Listing, out: ImageFile | np.ndarray) -> dict[int, str]:
        by_letter: dict[str, list[tuple[int, int]]] = {}
        for row, (letter, number) in enumerate(listing.items):
            by_letter.setdefault(letter, []).append((row, number))
        todo = list(by_letter.items())
        bar = tqdm(total=len(todo), desc="drawing glyphs", unit="letter", disable=None, leave=False)
        with bar, _one_thread():
            for start in range(0, len(todo), 32):
                part = todo[start : start + 32]
                rows, clean, noise = [], [], []
                for letter, drawings in part:
                    uniform = self._noise(letter, [number for _, number in drawings])
                    faces = _faces()[letter]
                    rows += [row for row, _ in drawings]
                    clean += [_clean(letter, faces[int(u * len(faces))]) for u in uniform[:, 0]]
                    noise.append(uniform)
                drawn = _draw(
                    torch.from_numpy(np.stack(clean)), torch.from_numpy(np.concatenate(noise)), self.image_size
                )
                out[rows] = drawn.numpy()
                bar.update(len(part))
        return {}

    def _noise(self, letter: str, numbers: Sequence[int]) -> np.ndarray:
        """Uniform numbers `[drawings, NOISE]` in 0..1, a function of the seed, the letter and each drawing's number."""
        words = np.random.Philox(key=np.array([self.seed % 2**64, ord(letter)], np.uint64)).random_raw(
            (max(numbers) + 1) * NOISE
        )
        # 24 bits, as many as float32 holds: more could round up to 1, and the face's index would be out of range.
        return ((words >> np.uint64(40)) * 2.0**-24).reshape(-1, NOISE)[list(numbers)].astype(np.float32)


@functools.cache
def letters() -> tuple[str, ...]:
    """All classes, in order of script and code point: letters that no earlier one looks like."""
    order = [script for split in SCRIPTS.values() for script in split]
    drawable = [letter for letter, faces in _faces().items() if _tight(letter, faces[0]).getbbox()]
    ordered = sorted(drawable, key=lambda letter: (order.index(_script(letter)), letter))
    alike = np.zeros((len(ordered), len(ordered)), bool)
    for stem in COMPARED:
        alike |= _alike(ordered, stem)
    first: list[int] = []
    for i in range(len(ordered)):
        if not alike[i, first].any():
            first.append(i)
    return tuple(ordered[i] for i in first)


def _alike(chosen: Sequence[str], stem: str) -> np.ndarray:
    """Which letters are one in the face `stem`, bool `[n, n]`; none where it lacks one of the two."""
    ink = np.zeros((len(chosen), SQUARE, SQUARE), np.float32)
    aspect = np.full(len(chosen), np.nan)  # compares as false with anything
    for i, letter in enumerate(chosen):
        for path in _faces()[letter]:
            if path.stem == stem:
                tight = _tight(letter, path)
                ink[i] = np.asarray(tight.resize((SQUARE, SQUARE), Image.Resampling.BILINEAR)) > 127
                aspect[i] = math.log(tight.width / tight.height)
    near = max_pool2d(torch.from_numpy(ink), 2 * REACH + 1, stride=1, padding=REACH).flatten(1).numpy()
    ink = ink.reshape(len(chosen), -1)
    stray = ink.sum(1)[:, None] - ink @ near.T  # whole numbers, so exact in any order of summation
    return (np.maximum(stray, stray.T) <= STRAY) & (np.abs(aspect[:, None] - aspect) < ASPECT)


@functools.cache
def _fonts() -> tuple[Path, ...]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [path for path in sorted(folder.glob("*.ttf")) if path.stem.startswith(FAMILIES)]
    if len(paths) < FACES:
        raise FileNotFoundError(f"matplotlib's fonts were expected in {folder}; found {len(paths)} of DejaVu and STIX")
    # The upright sans face first: letters are compared in the first face that has them.
    return tuple(sorted(paths, key=lambda path: (path.stem != "DejaVuSans", path.stem)))


@functools.cache
def _faces() -> dict[str, tuple[Path, ...]]:
    """Letter -> the fonts that can draw it, at least `FACES`."""
    scripts = {script for split in SCRIPTS.values() for script in split}
    found: dict[str, list[Path]] = {}
    for path in _fonts():
        for code in FT2Font(str(path)).get_charmap():
            letter = chr(code)
            if unicodedata.category(letter) in ("Lu", "Ll", "Lo", "Lt") and _script(letter) in scripts:
                found.setdefault(letter, []).append(path)
    return {letter: tuple(paths) for letter, paths in found.items() if len(paths) >= FACES}


def _script(letter: str) -> str:
    return unicodedata.name(letter, " ").split()[0]


@functools.cache
def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size=64)


def _tight(letter: str, path: Path) -> Image.Image:
    """The letter cut out along its ink, in gray; one black pixel where it has none."""
    left, top, right, bottom = _font(path).getbbox(letter)
    image = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(image).text((-left, -top), letter, fill=255, font=_font(path))
    return image.crop(image.getbbox() or (0, 0, 1, 1))


@functools.lru_cache(maxsize=4096)
def _clean(letter: str, path: Path) -> np.ndarray:
    """The letter as uint8 `[BOX, BOX]`, in the middle, its longer side `INK` pixels."""
    tight = _tight(letter, path)
    scale = INK / max(tight.size)
    size = tuple(max(1, round(side * scale)) for side in tight.size)
    box = Image.new("L", (BOX, BOX))
    box.paste(tight.resize(size, Image.Resampling.BILINEAR), ((BOX - size[0]) // 2, (BOX - size[1]) // 2))
    return np.asarray(box)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The steps of a drawing are too small to share: on two busy cores, two threads took three times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _draw(clean: Tensor, noise: Tensor, size: int) -> Tensor:
    """Clean letters uint8 `[n, BOX, BOX]` and uniform noise `[n, NOISE]` -> drawings uint8 `[n, 1, size, size]`."""
    n, fine = len(clean), 2 * size  # drawn at twice the size, then averaged
    ink = clean[:, None].float() / 255
    normal = torch.from_numpy(ndtri(noise.double().numpy().clip(1e-6, 1 - 1e-6))).float()
    turn, shear, stretch = 0.18 * normal[:, 1], 0.15 * normal[:, 2], torch.exp(0.10 * normal[:, 3:5])
    scale = 1.05 * torch.exp(0.10 * normal[:, 5])
    cos, sin = turn.cos(), turn.sin()
    # Rows of the map from the drawing's coordinates (-1..1) to the clean letter's.
    x = torch.stack([cos * stretch[:, 0], (shear * cos - sin) * stretch[:, 0], 0.08 * normal[:, 6]], dim=1)
    y = torch.stack([sin * stretch[:, 1], (shear * sin + cos) * stretch[:, 1], 0.08 * normal[:, 7]], dim=1)
    matrix = torch.stack([x, y], dim=1)
    matrix[:, :, :2] *= scale[:, None, None]
    grid = affine_grid(matrix, [n, 1, fine, fine], align_corners=False)
    field = 0.055 * normal[:, 16:48].reshape(n, 2, 4, 4)
    grid = grid + interpolate(field, size=(fine, fine), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    drawn = grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # A blurred stroke cut at a low level is thick, at a high level thin.
    drawn = _blur(_blur(drawn, size / 22).mT, size / 22).mT
    level = (0.25 + 0.25 * noise[:, 8].view(n, 1, 1, 1)) * drawn.amax((2, 3), keepdim=True)
    drawn = ((drawn - level) / 0.12 + 0.5).clamp(0, 1)
    return (avg_pool2d(drawn, 2) * 255).round().to(torch.uint8)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur along the last axis, by shifted sums: faster than `conv2d` with one channel, and the same anywhere."""
    radius = math.ceil(2.3 * sigma)
    weights = [math.exp(-((k / sigma) ** 2) / 2) for k in range(-radius, radius + 1)]
    padded, width = pad(images, (radius, radius)), images.shape[-1]
    return sum(w / sum(weights) * padded[..., k : k + width] for k, w in enumerate(weights))
