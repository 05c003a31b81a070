"""The page of a report as HTML: one section after the other, each a function.

It shows the measurements of one run, and beside them those of a second run where one is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from episodic.data.store import ImageStore
from episodic.evaluate.calibration import Calibration, calibration
from episodic.evaluate.intervals import Interval, class_interval, paired_interval
from episodic.evaluate.tables import DETAIL_HEADER, SCORE_HEADER, class_range, detail_rows, percent, score_row
from episodic.report import plots
from episodic.report.figure import episode_figure, in_words, rows_of, shown_rows
from episodic.report.markup import Html, document, escaped, figure, joined, table, tag, thumbnail
from episodic.report.measurements import DOUBT, FEWEST, Measurements
from episodic.report.plane import Plane
from episodic.report.plots import Picture, picture
from episodic.run.tensorboard import Curve

LISTED = 10  # classes and pairs in tables
KINDS = {"train": "training", "val": "validation", "test": "test"}  # of classes, by split


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """All that stands on a page.

    - `title`, `protocol`: the headline, and the kind and number of episodes. `caution`: a warning about the classes, or empty.
    - `facts`: what the run is, by name. `store`: the images that the episodes come from.
    - `measured`: the measurements by name of the run; the run itself comes first, then the one it is compared with, if any.
    - `curves`: the training curves by tag, or empty. `protocols`: the episodes or images of their accuracies, by tag.
    - `plane`: the embeddings in two dimensions, or None.
    - `command`: the command line that makes the page again. `made`: further facts about how it was made, by name.
    """

    title: str
    protocol: str
    caution: str
    facts: dict[str, str]
    store: ImageStore
    measured: dict[str, Measurements]
    curves: dict[str, Curve]
    protocols: dict[str, str]
    plane: Plane | None
    command: str
    made: dict[str, str]

    @property
    def ours(self) -> Measurements:
        return next(iter(self.measured.values()))

    @property
    def difference(self) -> Interval | None:
        """The accuracy of the run minus that of the other one, on the same episodes; None where there is no other."""
        accuracies = [found.evaluation.accuracies for found in self.measured.values()]
        return paired_interval(*accuracies) if len(accuracies) > 1 else None

    @property
    def difference_over_classes(self) -> Interval | None:
        """The same difference with an interval that also counts the draw of the classes; None where there is no such interval."""
        first, *others = (found.evaluation for found in self.measured.values())
        if not others or first.class_ids.ndim != 2:
            return None
        return class_interval(first.accuracies - others[0].accuracies, first.class_ids, bounds=(-1, 1))

    @property
    def kind(self) -> str:
        """What the classes are for, e.g. `validation`."""
        return KINDS[self.store.split]


def build_page(report: Report) -> tuple[str, list[Picture]]:
    """The page as HTML, which holds all that it needs, and its pictures."""
    pictures: list[Picture] = []

    def drawn(name: str, alt: str, draw: Callable) -> Picture:
        pictures.append(picture(name, alt, draw))
        return pictures[-1]

    sections = {
        "Result": result,
        "Classes": classes,
        "Episodes": episodes,
        "Training": training,
        "Confusions": confusions,
        "Calibration": reliability,
        "Embeddings": embeddings,
        "Examples": examples,
        "How it was made": how_it_was_made,
    }
    ids = {title: title.lower().replace(" ", "-") for title in sections}
    links = [tag("li", tag("a", title, href=f"#{ids[title]}")) for title in sections]
    body = [
        tag("section", tag("h2", title, id=ids[title]), joined(*make(report, drawn)))
        for title, make in sections.items()
    ]
    head = [
        tag("h1", report.title),
        tag("p", report.protocol, class_="protocol"),
        *([tag("p", report.caution)] if report.caution else []),
        cards(report),
        pairs_of(report.facts),
    ]
    contents = tag("nav", tag("ul", *links), aria_label="Contents")
    return document(report.title, tag("header", *head), contents, tag("main", *body)), pictures


def pairs_of(facts: dict[str, str]) -> Html:
    """A list of names and values. Names without a value are left out."""
    pairs = [Html(tag("dt", name) + tag("dd", value)) for name, value in facts.items() if value]
    return tag("dl", *pairs, class_="facts")


def cards(report: Report) -> Html:
    """The numbers that readers look for first."""
    found = []
    for name, measurements in report.measured.items():
        evaluation = measurements.evaluation
        over = f"over classes {class_range(evaluation.class_interval)} %"
        found.append((f"accuracy of {name}", f"{percent(evaluation.interval)} %", over))
    if report.difference:
        said = verdict(report.difference, report.difference_over_classes, report.kind)
        found.append(("difference on the same episodes, in points", percent(report.difference), said))
    error = calibration(report.ours.confidence, report.ours.right).error
    found.append(("expected calibration error", f"{100 * error:.1f} %", "|accuracy − confidence| of an answer"))
    made = [
        tag("div", tag("dt", name), tag("dd", value), tag("dd", more), class_="card") for name, value, more in found
    ]
    return tag("dl", *made, class_="cards")


def verdict(difference: Interval, over_classes: Interval | None, kind: str) -> str:
    """In words, what a paired difference on classes of this `kind` shows."""
    if not excludes_zero(difference):
        return "no difference is shown: the interval holds 0"
    said = f"{'better' if difference.mean > 0 else 'worse'} on these {kind} classes, beyond the draw of the episodes"
    if over_classes is None:
        return said
    also = " and that of the classes" if excludes_zero(over_classes) else "; of other classes nothing is shown"
    return f"{said}{also} (over classes {class_range(over_classes)})"


def excludes_zero(difference: Interval) -> bool:
    """Whether 0 lies outside the interval."""
    return difference.mean - difference.below > 0 or difference.mean + difference.above < 0


def result(report: Report, drawn: Callable) -> list[str]:
    rows, details = [], []
    for name, found in report.measured.items():
        rows.append([name, *score_row(found.evaluation, report.store)[:-1]])
        details += [[name, *row[1:]] for row in detail_rows(found.evaluation, report.store)]
    if report.difference:
        over = class_range(report.difference_over_classes)
        rows.append(["difference", "", "", "same episodes", percent(report.difference), over])
        first, second = (found.evaluation for found in report.measured.values())
        details += [["difference", *row[1:]] for row in detail_rows(first, report.store, second)]
    said = (
        "Mean accuracy ± 1.96 standard errors over episodes; over classes: a jackknife that also counts the draw of the "
        f"{report.kind} classes."
    )
    parts = [table(said, ["run", *SCORE_HEADER[:-1]], rows)]
    if details:
        parts.append(table("What else was measured of each episode.", ["run", *DETAIL_HEADER[1:]], details))
    return parts


def classes(report: Report, drawn: Callable) -> list[str]:
    counts, names = report.ours.counts, report.store.class_names
    asked, first, last = len(counts.hardest), counts.hardest[0], counts.hardest[-1]
    per_class = f"{np.median(counts.episodes[counts.hardest]):.0f}"
    lead = (
        f"{asked:,} of {len(names):,} classes were asked, each in {per_class} episodes (median). The hardest is "
        f"{names[first]} with {100 * counts.mean[first]:.1f} %, the easiest {names[last]} with {100 * counts.mean[last]:.1f} %."
    )
    if perfect := int((counts.mean == 1).sum()):
        lead += f" {perfect:,} were never mistaken."
    span = (
        "Whiskers: 95 % interval (Student's t) over the episodes that hold the class; none after one episode, nor after "
        f"fewer than {FEWEST} that agree."
    )
    parts = [tag("p", lead)]
    if asked > plots.FEW:
        ranks = drawn(
            "class-ranks", "Accuracy of all classes by rank. " + lead, lambda theme: plots.class_ranks(theme, counts)
        )
        parts.append(figure(ranks, "All classes by accuracy, with the interval of each as a band where there is one."))
        span += " With few episodes a class, the ends of the list are partly luck."
    bars = drawn(
        "classes", "Accuracy by class with intervals. " + lead, lambda theme: plots.class_bars(theme, counts, names)
    )
    return [*parts, figure(bars, span), hardest_table(report)]


def hardest_table(report: Report) -> Html:
    counts, names, labels = report.ours.counts, report.store.class_names, report.store.labels.cpu().numpy()
    rows = []
    for c in counts.hardest[:LISTED]:
        wrong = counts.answered[c].copy()
        wrong[c] = 0
        usual = int(wrong.argmax())
        told = f"{names[usual]} ({wrong[usual]} of {counts.asked[c, usual]} queries)" if wrong[usual] else "–"
        over = class_range(counts.interval(int(c))).replace(" ", "\u00a0")
        picture = thumbnail(report.store, int(np.flatnonzero(labels == c)[0]))
        accuracy = f"{100 * counts.mean[c]:.1f}"
        rows.append([with_picture(picture, names[c]), accuracy, over, f"{counts.episodes[c]:,}", told])
    header = ["class", "accuracy %", "95 % interval", "episodes", "most often taken for"]
    return table("The hardest classes.", header, rows)


def with_picture(picture: Html, text: str) -> Html:
    breakable = escaped(text).replace("/", "/<wbr>").replace("_", "_<wbr>")
    return tag("span", picture, tag("span", Html(breakable)), class_="with-thumb")


def episodes(report: Report, drawn: Callable) -> list[str]:
    accuracies = {name: found.evaluation.accuracies for name, found in report.measured.items()}
    said = [f"{name}: {spread_in_words(values)}" for name, values in accuracies.items()]
    shown = drawn(
        "episodes",
        f"Histogram of accuracies. {' '.join(said)}",
        lambda theme: plots.accuracy_histogram(theme, accuracies),
    )
    return [figure(shown, " ".join(said))]


def spread_in_words(accuracies: np.ndarray) -> str:
    """The spread of the episodes' accuracies in words. The shares are counted, since many episodes may have the same accuracy."""
    low, middle, high = np.percentile(accuracies, [5, 50, 95], method="inverted_cdf")
    few, many = 100 * (accuracies <= low).mean(), 100 * (accuracies >= high).mean()
    best = "are without a mistake" if high > 1 - 1e-6 else f"at or above {100 * high:.1f} %"
    return (
        f"the median episode has {100 * middle:.1f} %; {few:.1f} % of the episodes are at or below {100 * low:.1f} %, "
        f"{many:.1f} % {best}."
    )


def training(report: Report, drawn: Callable) -> list[str]:
    wanted = ("train/loss", "train/accuracy", "val/accuracy")
    if not any(len(report.curves.get(tag, ([],))[0]) for tag in wanted):
        return [tag("p", "There are no TensorBoard events in the run's folder, so there are no curves to show.")]
    said, asked = [], {name: of for name, of in report.protocols.items() if name in report.curves}
    for name in wanted:
        if name in report.curves:
            steps, values = report.curves[name]
            last = f"{values[-1]:.3f}" if name == "train/loss" else f"{100 * values[-1]:.1f} %"
            of = f" ({asked[name]})" if name in asked else ""
            said.append(f"{name}{of} ends at {last} (step {steps[-1]:,})")
    told = "; ".join(said) + "."
    shown = drawn(
        "training",
        f"Training curves: {told}",
        lambda theme: plots.training(theme, report.curves, report.protocols),
    )
    told += " Validation: mean and 95 % interval of the same episodes each time."
    if len(set(asked.values())) > 1:
        told += " Training and validation ask different questions, so their accuracies do not compare."
    return [figure(shown, told)]


def confusions(report: Report, drawn: Callable) -> list[str]:
    counts, names = report.ours.counts, report.store.class_names
    pairs = counts.confusions(most=500)
    if not pairs:
        return [tag("p", "Every query was answered rightly, so no classes were confused.")]
    chosen, which = counts.hardest.tolist(), "All classes, the hardest first."
    if len(chosen) > plots.SHOWN:
        chosen = list(dict.fromkeys(c for pair in pairs for c in pair))[: plots.SHOWN]
        which = f"The {len(chosen)} classes of the worst confusions; of many classes, two meet in few episodes."
    said = (
        f"{which} A row's class is the query's, a column's the answer. A number is the share, in percent, of the queries that had "
        "the answer to choose from; bold: the right ones; ·: never in one episode; blank: below one half."
    )
    most = "; ".join(
        f"{names[a]} as {names[b]}, {counts.answered[a, b]} of {counts.asked[a, b]} queries" for a, b in pairs[:3]
    )
    alt = f"Confusion matrix of {len(chosen)} classes. The worst: {most}."
    matrix = drawn("confusions", alt, lambda theme: plots.confusion_matrix(theme, counts, chosen, names))
    return [figure(matrix, said, wide=True), pairs_table(report, pairs[:LISTED])]


def pairs_table(report: Report, pairs: Sequence[tuple[int, int]]) -> Html:
    store, found, rows = report.store, report.ours, []
    labels = store.labels.cpu().numpy()
    for a, b in pairs:
        query = with_picture(thumbnail(store, found.first_mistake(a, b)), store.class_names[a])
        answer = with_picture(thumbnail(store, int(np.flatnonzero(labels == b)[0])), store.class_names[b])
        times, asked = found.counts.answered[a, b], found.counts.asked[a, b]
        rows.append([query, answer, f"{times:,} of {asked:,}", f"{100 * times / asked:.1f}"])
    said = (
        "The pairs confused most often where both could be answered: a query that went wrong, and an image of the class that it "
        f"was taken for. In order of the share, as if {DOUBT} more queries of each pair had gone right, so that one episode alone "
        "does not lead."
    )
    return table(said, ["query", "answered", "queries confused", "%"], rows)


def reliability(report: Report, drawn: Callable) -> list[str]:
    found = {name: calibration(each.confidence, each.right) for name, each in report.measured.items()}
    said = " ".join(f"{name}: {calibration_in_words(each)}" for name, each in found.items())
    shown = drawn("calibration", f"Reliability diagram. {said}", lambda theme: plots.reliability(theme, found))
    return [
        figure(
            shown, f"{said} Above the dotted line answers are righter than they are sure, below it surer than right."
        )
    ]


def calibration_in_words(found: Calibration) -> str:
    total = max(found.counts.sum(), 1)
    sure, right = (100 * (found.counts * part).sum() / total for part in (found.confidence, found.accuracy))
    return (
        f"expected calibration error {100 * found.error:.1f} %, mean confidence {sure:.1f} %, accuracy {right:.1f} %."
    )


def embeddings(report: Report, drawn: Callable) -> list[str]:
    if report.plane is None:
        return [tag("p", "This learner has no embeddings of its own, or there are too few images to show.")]
    plane, names = report.plane, report.store.class_names
    shown = [names[c] for c in dict.fromkeys(plane.labels.tolist())]
    alt = f"Embeddings of {len(plane.labels)} images of {len(shown)} classes in two dimensions: {', '.join(shown)}."
    made = drawn("embeddings", alt, lambda theme: plots.embedding(theme, plane, names))
    said = (
        f"{len(plane.labels)} images of {len(shown)} classes, at even ranks from the hardest to the easiest ({plane.method}). "
        "Neighbors are near each other in the embedding too; distances between groups say little."
    )
    return [figure(made, said)]


def examples(report: Report, drawn: Callable) -> list[str]:
    key = "✓ thin blue frame: right; ✗ thick orange frame: wrong, with the class that was answered."
    if report.ours.evaluation.class_ids.size and report.ours.examples["best"].taken is not None:
        key += (
            " Under an unlabeled item: the class it was taken for most and the weight of that; out: left out. "
            "Dashed: a distractor, of no class of the episode; ✗ where more than half of it was taken."
        )
    parts: list[str] = [tag("p", key)]
    for name, example in report.ours.examples.items():
        rows = rows_of(example, report.store)
        shown = shown_rows(rows)
        alt = in_words(example, rows)
        made = drawn(f"{name}-episode", alt, lambda theme, shown=shown: episode_figure(theme, shown, report.store))
        cut = f" {len(shown)} of {len(rows)} classes are drawn, those with the most mistakes." * (
            len(shown) < len(rows)
        )
        heading = tag("h3", f"The {name} episode: {100 * example.accuracy:.1f} %")
        parts += [heading, figure(made, alt + cut, wide=True)]
    return parts


def how_it_was_made(report: Report, drawn: Callable) -> list[str]:
    return [tag("p", "The same command makes this page again:"), tag("pre", report.command), pairs_of(report.made)]
