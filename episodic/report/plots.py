"""The figures of a report, drawn with matplotlib. Each is drawn twice, for light and for dark pages."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image

from episodic.evaluate.calibration import BINS, Calibration
from episodic.report.measurements import ConfusionCounts
from episodic.report.plane import Plane
from episodic.run.tensorboard import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 200
FEW = 40  # classes that are shown one by one
SHOWN = 20  # of more classes, how many at each end


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colors of a figure. Those of data are from Okabe and Ito's palette, which color-blind readers can tell apart."""

    text: str
    muted: str
    grid: str
    page: str
    ours: str
    theirs: str
    mistake: str  # full scale of the confusion matrix


LIGHT = Theme("#1d1d1f", "#5f6368", "#dcdcdc", "#ffffff", "#0072b2", "#d55e00", "#e07b3a")
DARK = Theme("#e8e8ea", "#a3a6ab", "#3c3e43", "#17181b", "#56b4e9", "#e69f00", "#a85400")
CLASS_COLORS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8a6d00",
    "#7f7f7f",
    "#6a51a3",
    "#b22222",
)
MARKERS = "osD^vPX*<>"


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A figure as PNG, once for light and once for dark pages. It takes `width` x `height` CSS pixels."""

    name: str
    alt: str
    light: bytes
    dark: bytes
    width: int
    height: int


def picture(name: str, alt: str, draw: Callable[[Theme], Figure]) -> Picture:
    """The figure that `draw` makes, once for each theme."""
    from matplotlib import rc_context  # takes a while

    made = []
    for theme in (LIGHT, DARK):
        colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), theme.text)
        colors |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), theme.muted)
        style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "grid.color": theme.grid}
        style |= {"text.parse_math": False, "legend.frameon": False, "axes.grid": True, "axes.axisbelow": True}
        file = io.BytesIO()
        with rc_context(colors | style), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # class names may be in any script
            figure = draw(theme)
            figure.savefig(file, format="png", dpi=DPI, transparent=True, pil_kwargs={"compress_level": 0})
        made.append(smaller(file))
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(name, alt, made[0], made[1], width, height)


def smaller(png: io.BytesIO) -> bytes:
    """The same PNG with a palette of 256 colors, which takes a quarter of the bytes."""
    file = io.BytesIO()
    Image.open(png).quantize(256, method=Image.Quantize.FASTOCTREE).save(file, "png", optimize=True)
    return file.getvalue()


def figure_of(width: float, height: float, rows: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """A figure in inches with `rows` axes. It is made without pyplot, which keeps every figure and asks for a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, squeeze=False)[:, 0])


def short(name: str, most: int = 30) -> str:
    """A name on one line. Of a name with more than `most` letters the middle is left out."""
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def class_bars(theme: Theme, counts: ConfusionCounts, names: Sequence[str]) -> Figure:
    """The accuracy of each class with its interval. Of many classes only the hardest and the easiest are shown."""
    order, many = counts.hardest, len(counts.hardest) > FEW
    groups = {"the hardest": order[:SHOWN], "the easiest": order[-SHOWN:]} if many else {"": order}
    rows = sum(map(len, groups.values()))
    figure, axes = figure_of(5.2, 0.9 + 0.21 * rows + 0.5 * (len(groups) - 1), len(groups))
    for ax, (title, classes) in zip(axes, groups.items(), strict=True):
        mean, y = 100 * counts.mean[classes], np.arange(len(classes))
        looks = {"fmt": "o", "markersize": 4, "color": theme.ours, "ecolor": theme.muted, "elinewidth": 1.2}
        ax.errorbar(mean, y, xerr=reaches(counts, classes), **looks)
        ax.set_yticks(y, [short(names[c]) for c in classes], fontsize=8.5)
        ax.set_ylim(len(classes) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_title(title, fontsize=10, loc="left", color=theme.muted)
    limits = [ax.get_xlim() for ax in axes]
    for ax in axes:
        ax.set_xlim(min(low for low, _ in limits), min(max(high for _, high in limits), 103))
    axes[-1].set_xlabel("accuracy %")
    return figure


def reaches(counts: ConfusionCounts, classes: Int64[np.ndarray, " class"]) -> Float[np.ndarray, "ends class"]:
    """How far the interval of each class reaches below and above its mean, in percent; NaN where there is no interval."""
    found = [counts.interval(c) for c in classes.tolist()]
    return 100 * np.array([(each.below, each.above) if each else (np.nan, np.nan) for each in found]).T


def class_ranks(theme: Theme, counts: ConfusionCounts) -> Figure:
    """The accuracy of all classes by rank. The intervals form a band, with gaps where a class has none."""
    figure, [ax] = figure_of(5.2, 3.0)
    mean, [below, above] = 100 * counts.mean[counts.hardest], reaches(counts, counts.hardest)
    edges = np.arange(len(mean) + 1) + 0.5
    looks = {"color": theme.ours, "alpha": 0.25, "linewidth": 0, "label": "95 % interval"}
    ax.stairs(mean + above, edges, baseline=mean - below, fill=True, **looks)
    ax.plot(edges[:-1] + 0.5, mean, color=theme.ours, linewidth=2, label="accuracy")
    ax.set_xlabel("class, the hardest first")
    ax.set_ylabel("accuracy %")
    ax.set_xlim(1, len(mean))
    ax.legend(loc="lower right")
    return figure


def accuracy_histogram(theme: Theme, accuracies: dict[str, np.ndarray]) -> Figure:
    """A histogram of the episodes' accuracies, for one learner or for two."""
    figure, [ax] = figure_of(5.2, 3.0)
    lowest, highest = (f([f(values) for values in accuracies.values()]) for f in (min, max))
    steps = np.unique(np.concatenate(list(accuracies.values())))
    # An episode's accuracy is a count of queries: bins finer than one query would leave gaps that mean nothing.
    finest = np.diff(steps).min() if len(steps) > 1 else 1.0
    width = finest * max(1, round((highest - lowest) / 30 / finest))
    edges = np.arange(highest + width / 2, lowest - 1.5 * width, -width)[::-1]
    looks = zip(accuracies.items(), (theme.ours, theme.theirs), ("-", "--"), strict=False)
    for (name, values), color, line in looks:
        weights = np.full(len(values), 100 / len(values))
        ax.hist(100 * values, 100 * edges, weights=weights, color=color, alpha=0.25)
        ax.hist(100 * values, 100 * edges, weights=weights, histtype="step", color=color, linestyle=line, linewidth=1.6)
        ax.axvline(100 * values.mean(), color=color, linestyle=line, linewidth=1.6, label=f"{name}, mean")
    ax.set_xlabel("accuracy of an episode, %")
    ax.set_ylabel("share of episodes, %")
    ax.set_xlim(100 * edges[0], 100 * edges[-1])
    figure.legend(loc="outside upper left", fontsize=9)
    return figure


def training(theme: Theme, curves: dict[str, Curve], protocols: dict[str, str]) -> Figure:
    """Loss and accuracy by step, in training and in validation. `protocols` says for each tag what its accuracy is of."""
    figure, axes = figure_of(5.2, 4.6, 2)
    looks = {
        "train/loss": (axes[0], 1, "training", theme.ours),
        "train/accuracy": (axes[1], 100, f"training, {protocols['train/accuracy']}", theme.ours),
        "val/accuracy": (axes[1], 100, f"validation, {protocols['val/accuracy']}", theme.theirs),
    }
    for tag, (ax, scale, name, color) in looks.items():
        if tag not in curves:
            continue
        steps, values = curves[tag]
        if tag.startswith("val"):
            reach = curves.get("val/ci95", (steps, np.zeros(len(steps))))[1]
            fits = len(reach) == len(steps) and np.isfinite(reach).all()
            ax.errorbar(
                steps, scale * values, yerr=scale * reach if fits else None, color=color, marker="o", label=name
            )
            continue
        ax.plot(steps, scale * values, color=color, alpha=0.3, linewidth=0.8)
        window = max(1, len(values) // 25)
        means = np.convolve(values, np.full(window, 1 / window), mode="valid")
        ax.plot(
            steps[window - 1 :], scale * means, color=color, linewidth=1.8, label=f"{name}, mean of {window} points"
        )
    for ax, label in zip(axes, ("loss", "accuracy %"), strict=True):
        ax.set_ylabel(label)
        if ax.has_data():
            ax.legend(fontsize=9)
    axes[1].set_xlabel("step")
    return figure


def confusion_matrix(theme: Theme, counts: ConfusionCounts, classes: Sequence[int], names: Sequence[str]) -> Figure:
    """The confusion matrix of `classes`, in their order.

    A number is the share of the queries of the row's class that were answered by the column's class, of those queries that had
    this class among the possible answers.
    """
    from matplotlib.colors import LinearSegmentedColormap

    asked, answered = (each[np.ix_(classes, classes)] for each in (counts.asked, counts.answered))
    share = np.divide(answered, asked, where=asked > 0, out=np.full(asked.shape, np.nan))
    wrong = np.where(np.eye(len(classes), dtype=bool), np.nan, share)
    top = np.nanmax(wrong) if np.isfinite(wrong).any() else 1.0
    side = 1.9 + 0.3 * len(classes)
    figure, [ax] = figure_of(side, side - 0.2)
    ax.imshow(
        wrong, cmap=LinearSegmentedColormap.from_list("", [theme.page, theme.mistake]), vmin=0, vmax=max(top, 1e-9)
    )
    for (row, column), value in np.ndenumerate(share):
        if not np.isfinite(value):
            ax.text(column, row, "·", ha="center", va="center", color=theme.muted, fontsize=8)
        elif row == column:
            ax.text(
                column,
                row,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                fontweight="bold",
                color=theme.ours,
            )
        elif round(100 * value):
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8)
    shown = [short(names[c], 24) for c in classes]
    ax.set_xticks(range(len(classes)), shown, rotation=90, fontsize=8)
    ax.set_yticks(range(len(classes)), shown, fontsize=8)
    ax.set_xlabel("answer")
    ax.set_ylabel("class of the query")
    ax.grid(visible=False)
    return figure


def reliability(theme: Theme, calibrations: dict[str, Calibration]) -> Figure:
    """A reliability diagram: accuracy by confidence, and below it the share of answers with each confidence."""
    figure, [ax, below] = figure_of(4.6, 5.2, 2)
    ax.plot([0, 100], [0, 100], color=theme.muted, linestyle=":", label="as sure as right")
    looks = zip(calibrations.items(), (theme.ours, theme.theirs), ("o-", "s--"), strict=False)
    for (name, found), color, line in looks:
        held = found.counts > 0
        ax.plot(100 * found.confidence[held], 100 * found.accuracy[held], line, color=color, label=name, markersize=5)
        edges = 100 * np.arange(len(found.counts) + 1) / len(found.counts)
        below.stairs(
            100 * found.counts / max(found.counts.sum(), 1), edges, color=color, linestyle=line[1:], linewidth=1.6
        )
    ax.set_ylabel("accuracy %")
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 100)
    ax.legend(fontsize=9)
    below.set_xlabel(f"confidence %, {BINS} bins")
    below.set_ylabel("share of answers, %")
    below.set_xlim(0, 100)
    return figure


def embedding(theme: Theme, found: Plane, names: Sequence[str]) -> Figure:
    """Embeddings in two dimensions. Each class has a color and a marker."""
    figure, [ax] = figure_of(5.2, 5.4)
    classes = list(dict.fromkeys(found.labels.tolist()))
    for c, color, marker in zip(classes, CLASS_COLORS, MARKERS, strict=False):
        x, y = found.points[found.labels == c].T
        ax.scatter(x, y, s=22, color=color, marker=marker, edgecolors=theme.page, linewidths=0.4, label=short(names[c]))
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, handletextpad=0.1)
    return figure
