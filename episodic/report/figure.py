"""The figure of one episode: a row for each class, with its support, its queries and its unlabeled items.

Under a query stands the answer, under an unlabeled item the class that it was taken for.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from string import ascii_uppercase
from typing import TYPE_CHECKING

import numpy as np
import torch

from episodic.data.store import ImageStore
from episodic.report.measurements import EpisodeExample
from episodic.report.plots import Theme, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS, DISTRACTORS = 10, 5  # at most so many classes, and classes of distractors, are drawn
MOST = {"support": 5, "queries": 15, "unlabeled": 10}  # items of a row
TILE, HEIGHT, LABEL, GAP = 0.46, 1.5, 3.2, 0.5  # a tile in inches; the others in tiles


@dataclasses.dataclass(frozen=True)
class Mark:
    """One image of a row: the `item`, whether it went `right` (None where that has no meaning), and the `text` under it."""

    item: int
    right: bool | None
    text: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the figure: a class of the episode, or a class of distractors."""

    letter: str
    name: str
    marks: dict[str, list[Mark]]  # by role
    distractor: bool = False

    @property
    def mistakes(self) -> int:
        return sum(mark.right is False for mark in self.marks["queries"])


def letter_of(way: int, n_way: int) -> str:
    """The letter of a class: A, B, ..., Z, AA, AB, ...; `base` for the base classes of an incremental episode."""
    if way >= n_way:
        return "base"
    first, last = divmod(way, 26)
    return ascii_uppercase[first - 1] * bool(first) + ascii_uppercase[last]


def rows_of(example: EpisodeExample, store: ImageStore) -> list[Row]:
    """All rows of an episode: first its classes, with all base classes in one row, then the classes of the distractors."""
    indices, n_way = example.indices, example.indices.n_way
    queries: dict[int, list[Mark]] = {}
    for item, truth, answer in zip(indices.query[0], indices.query_y[0], example.answers, strict=True):
        right = bool(truth == answer)
        text = "✓" if right else f"✗ {letter_of(int(answer), n_way)}"
        queries.setdefault(min(int(truth), n_way), []).append(Mark(int(item), right, text))
    unlabeled: dict[int, list[Mark]] = {}
    for place, (item, truth) in enumerate(zip(indices.unlabeled[0], indices.unlabeled_y[0], strict=True)):
        key = int(truth) if truth >= 0 else -1 - int(store.labels[item])  # a distractor has no label in the episode
        mark = unlabeled_mark(int(item), int(truth), None if example.taken is None else example.taken[place])
        unlabeled.setdefault(key, []).append(mark)
    rows = []
    for way in range(n_way + bool(indices.n_base)):
        base = way == n_way
        support = [] if base else [Mark(int(i), None, "") for i in indices.support[0][indices.support_y[0] == way]]
        marks = {"support": support, "queries": queries.get(way, []), "unlabeled": unlabeled.get(way, [])}
        name = "base classes" if base else store.class_names[indices.class_ids[0, way]]
        rows.append(Row("" if base else letter_of(way, n_way), name, marks))
    for key, marks in unlabeled.items():
        if key < 0:
            name = store.class_names[-1 - key]
            rows.append(Row("–", name, {"support": [], "queries": [], "unlabeled": marks}, distractor=True))
    return rows


def unlabeled_mark(item: int, truth: int, taken: np.ndarray | None) -> Mark:
    """The mark of an unlabeled item: the class it was taken for most, and with what weight.

    It is right where the item was taken most for its own class, and where at least half of a distractor was left out.
    """
    if taken is None:
        return Mark(item, None, "")
    way, total = int(taken.argmax()), float(taken.sum())
    if total < 0.05:  # nothing, as it is printed
        return Mark(item, truth < 0, f"{'✓' if truth < 0 else '✗'} out")
    right = way == truth or (truth < 0 and total <= 0.5)
    return Mark(item, right, f"{'✓' if right else '✗'} {letter_of(way, len(taken))} {taken[way]:.1f}")


def shown_rows(rows: list[Row]) -> list[Row]:
    """The rows that are drawn. Of many classes these are the ones with the most mistakes; of distractors, the first few."""
    classes = [row for row in rows if not row.distractor]
    if len(classes) > ROWS:
        classes = sorted(classes, key=lambda row: -row.mistakes)[:ROWS]
    return classes + [row for row in rows if row.distractor][:DISTRACTORS]


def episode_figure(theme: Theme, rows: list[Row], store: ImageStore) -> Figure:
    """Draw `rows` of an episode. Right and wrong differ by color, by sign and by the width of the frame."""
    from matplotlib.figure import Figure

    wide = {role: min(most, max(len(row.marks[role]) for row in rows)) for role, most in MOST.items()}
    wide = {role: count for role, count in wide.items() if count}
    starts = dict(zip(wide, np.cumsum([LABEL, *(count + GAP for count in wide.values())]), strict=False))
    width, height = LABEL + sum(wide.values()) + GAP * len(wide), 0.6 + HEIGHT * len(rows)
    figure = Figure(figsize=(TILE * width, TILE * height))
    ax = figure.add_axes((0, 0, 1, 1))
    for role, start in starts.items():
        ax.text(start, 0.4, role, fontsize=9, color=theme.muted, va="bottom")
    for number, row in enumerate(rows):
        top = 0.6 + HEIGHT * number
        ax.text(0.1, top + 0.42, row.letter, fontsize=11, fontweight="bold", va="center")
        for line, text in enumerate(lines_of(row)):
            ax.text(0.6, top + 0.25 + 0.3 * line, text, fontsize=6, color=theme.muted, va="center")
        for role, start in starts.items():
            for place, mark in enumerate(row.marks[role][: wide[role]]):
                tile(ax, theme, store, mark, start + place, top, row.distractor)
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_axis_off()
    return figure


def lines_of(row: Row) -> list[str]:
    """The name of a class in up to two short lines. The parts of a path are separated by spaces."""
    name = " ".join(row.name.split("/"))
    text = short(f"{'distractor: ' if row.distractor else ''}{name}", 42)
    cut = text.rfind(" ", 0, 22) if len(text) > 21 else -1
    cut = cut if cut > 0 else 21
    return [part for part in (text[:cut], text[cut:].strip()) if part]


def tile(ax: Axes, theme: Theme, store: ImageStore, mark: Mark, x: float, y: float, distractor: bool) -> None:
    """Draw one item with its frame and the text under it."""
    from matplotlib.patches import Rectangle

    image = store.gather(torch.tensor([mark.item]))[0].cpu().permute(1, 2, 0).numpy()
    image = image[..., 0] if image.shape[-1] != 3 else image
    ax.imshow(image, extent=(x + 0.06, x + 0.94, y + 0.94, y + 0.06), cmap="gray", vmin=0, vmax=255, aspect="auto")
    color = {True: theme.ours, False: theme.theirs, None: theme.muted}[mark.right]
    line = {True: 1.3, False: 2.4, None: 0.8}[mark.right]
    frame = Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, fill=False, edgecolor=color, linewidth=line)
    frame.set_linestyle((0, (2, 1.5)) if distractor else "-")
    ax.add_patch(frame)
    ax.text(x + 0.5, y + 1.17, mark.text, fontsize=6.5, ha="center", va="center", color=color)


def in_words(example: EpisodeExample, rows: list[Row]) -> str:
    """The figure in words, for readers who do not see it."""
    wrong = Counter(
        mark.text.removeprefix("✗ ") for row in rows for mark in row.marks["queries"] if mark.right is False
    )
    count = len(example.answers)
    said = ", ".join(f"{times} answered {letter}" for letter, times in wrong.most_common(5)) or "none wrong"
    return f"Episode {example.number}: {count - sum(wrong.values())} of {count} queries right; {said}."
