"""The page: what was found of one run, or of two, as a document to read from top to bottom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from episodic.data.store import ImageStore
from episodic.metrics import Interval, paired_interval
from episodic.pages import plots, strips
from episodic.pages.findings import Calibration, Curve, Findings, Plane, calibration
from episodic.pages.markup import Html, document, escaped, figure, joined, table, tag, thumbnail
from episodic.pages.plots import Picture, picture
from episodic.score import DETAIL_HEADER, SCORE_HEADER, class_range, detail_rows, percent, score_row

LISTED = 10  # classes and pairs in tables


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Everything that stands on a page.

    `measured`: findings by name of the run, ours first, then that of the run compared with, if any. `facts`: what the run is.
    `curves`, `plane`: empty or None where there are none. `made`: how it was made, by name; `command` makes it again.
    """

    title: str
    protocol: str
    facts: dict[str, str]
    store: ImageStore
    measured: dict[str, Findings]
    curves: dict[str, Curve]
    plane: Plane | None
    command: str
    made: dict[str, str]

    @property
    def ours(self) -> Findings:
        return next(iter(self.measured.values()))

    @property
    def difference(self) -> Interval | None:
        """Ours minus the other's, on the same episodes."""
        accuracies = [found.evaluation.accuracies for found in self.measured.values()]
        return paired_interval(*accuracies) if len(accuracies) > 1 else None


def build_page(report: Report) -> tuple[str, list[Picture]]:
    """The page as HTML that needs nothing else, and its pictures."""
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
        "How it was made": how,
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
        cards(report),
        pairs_of(report.facts),
    ]
    contents = tag("nav", tag("ul", *links), aria_label="Contents")
    return document(report.title, tag("header", *head), contents, tag("main", *body)), pictures


def pairs_of(facts: dict[str, str]) -> Html:
    """A list of names and values; those without a value are left out."""
    pairs = [Html(tag("dt", name) + tag("dd", value)) for name, value in facts.items() if value]
    return tag("dl", *pairs, class_="facts")


def cards(report: Report) -> Html:
    """The figures that people look for first."""
    found = []
    for name, findings in report.measured.items():
        evaluation = findings.evaluation
        over = f"over classes {class_range(evaluation.class_interval)} %"
        found.append((f"accuracy of {name}", f"{percent(evaluation.interval)} %", over))
    if report.difference:
        found.append(
            ("difference on the same episodes, in points", percent(report.difference), verdict(report.difference))
        )
    error = calibration(report.ours.confidence, report.ours.right).error
    found.append(("expected calibration error", f"{100 * error:.1f} %", "|accuracy − confidence| of an answer"))
    made = [
        tag("div", tag("dt", name), tag("dd", value), tag("dd", more), class_="card") for name, value, more in found
    ]
    return tag("dl", *made, class_="cards")


def verdict(difference: Interval) -> str:
    """What a paired difference shows, in words."""
    low, high = difference.mean - difference.below, difference.mean + difference.above
    if low > 0:
        return "better on these test classes, beyond the draw of the episodes"
    return (
        "worse on these test classes, beyond the draw of the episodes"
        if high < 0
        else "no difference is shown: the interval holds 0"
    )


def result(report: Report, drawn: Callable) -> list[str]:
    rows, details = [], []
    for name, found in report.measured.items():
        rows.append([name, *score_row(found.evaluation, report.store)[:-1]])
        details += [[name, *row[1:]] for row in detail_rows(found.evaluation, report.store)]
    if report.difference:
        rows.append(["difference", "", "", "same episodes", percent(report.difference), ""])
        first, second = (found.evaluation for found in report.measured.values())
        details += [["difference", *row[1:]] for row in detail_rows(first, report.store, second)]
    said = (
        "Mean accuracy ± 1.96 standard errors over episodes; over classes: a bootstrap that also counts the draw of the test "
        "classes."
    )
    parts = [table(said, ["run", *SCORE_HEADER[:-1]], rows)]
    if details:
        parts.append(table("What else was measured of each episode.", ["run", *DETAIL_HEADER[1:]], details))
    return parts


def classes(report: Report, drawn: Callable) -> list[str]:
    tally, names = report.ours.tally, report.store.class_names
    asked, first, last = len(tally.hardest), tally.hardest[0], tally.hardest[-1]
    per_class = f"{np.median(tally.episodes[tally.hardest]):.0f}"
    lead = (
        f"{asked:,} of {len(names):,} classes were asked, each in {per_class} episodes (median). The hardest is "
        f"{names[first]} with {100 * tally.mean[first]:.1f} %, the easiest {names[last]} with {100 * tally.mean[last]:.1f} %."
    )
    if perfect := int((tally.mean == 1).sum()):
        lead += f" {perfect:,} were never mistaken."
    span = "Whiskers: mean ± 1.96 standard errors over the episodes that hold the class."
    parts = [tag("p", lead)]
    if asked > plots.FEW:
        ranks = drawn(
            "class-ranks", "Accuracy of all classes by rank. " + lead, lambda theme: plots.class_ranks(theme, tally)
        )
        parts.append(figure(ranks, "All classes by accuracy, with the interval of each as a band."))
        span += " With few episodes a class, the ends of the list are partly luck."
    bars = drawn(
        "classes", "Accuracy by class with intervals. " + lead, lambda theme: plots.class_bars(theme, tally, names)
    )
    return [*parts, figure(bars, span), hardest_table(report)]


def hardest_table(report: Report) -> Html:
    tally, names, labels = report.ours.tally, report.store.class_names, report.store.labels.cpu().numpy()
    rows = []
    for c in tally.hardest[:LISTED]:
        wrong = tally.answered[c].copy()
        wrong[c] = 0
        usual = int(wrong.argmax())
        told = f"{names[usual]} ({wrong[usual]} of {tally.asked[c, usual]} queries)" if wrong[usual] else "–"
        interval = Interval(tally.mean[c], tally.half_width[c], tally.half_width[c])
        picture = thumbnail(report.store, int(np.flatnonzero(labels == c)[0]))
        rows.append(
            [with_picture(picture, names[c]), percent(interval).replace(" ", "\u00a0"), f"{tally.episodes[c]:,}", told]
        )
    return table("The hardest classes.", ["class", "accuracy %", "episodes", "most often taken for"], rows)


def with_picture(picture: Html, text: str) -> Html:
    breakable = escaped(text).replace("/", "/<wbr>").replace("_", "_<wbr>")
    return tag("span", picture, tag("span", Html(breakable)), class_="with-thumb")


def episodes(report: Report, drawn: Callable) -> list[str]:
    accuracies = {name: found.evaluation.accuracies for name, found in report.measured.items()}
    said = []
    for name, values in accuracies.items():
        low, middle, high = np.percentile(100 * values, [5, 50, 95])
        said.append(
            f"{name}: 5 % of the episodes are below {low:.1f} %, half below {middle:.1f} %, 95 % below {high:.1f} %."
        )
    shown = drawn(
        "episodes", f"Histogram of accuracies. {' '.join(said)}", lambda theme: plots.spread(theme, accuracies)
    )
    return [figure(shown, " ".join(said))]


def training(report: Report, drawn: Callable) -> list[str]:
    wanted = ("train/loss", "train/accuracy", "val/accuracy")
    if not any(len(report.curves.get(tag, ([],))[0]) for tag in wanted):
        return [tag("p", "There are no TensorBoard events in the run's folder, so there are no curves to show.")]
    said = []
    for name in wanted:
        if name in report.curves:
            steps, values = report.curves[name]
            last = f"{values[-1]:.3f}" if name == "train/loss" else f"{100 * values[-1]:.1f} %"
            said.append(f"{name} ends at {last} (step {steps[-1]:,})")
    shown = drawn(
        "training", "Training curves: " + "; ".join(said) + ".", lambda theme: plots.training(theme, report.curves)
    )
    return [figure(shown, "; ".join(said) + ". Validation: mean and 95 % interval of the same episodes each time.")]


def confusions(report: Report, drawn: Callable) -> list[str]:
    tally, names = report.ours.tally, report.store.class_names
    pairs = tally.confusions(most=500)
    if not pairs:
        return [tag("p", "Every query was answered rightly, so no classes were confused.")]
    chosen, which = tally.hardest.tolist(), "All classes, the hardest first."
    if len(chosen) > plots.SHOWN:
        chosen = list(dict.fromkeys(c for pair in pairs for c in pair))[: plots.SHOWN]
        which = f"The {len(chosen)} classes of the most frequent confusions; of many classes, two meet in few episodes."
    said = (
        f"{which} A row's class is the query's, a column's the answer. A number is the share, in percent, of the queries that had "
        "the answer to choose from; bold: the right ones; ·: never in one episode; blank: below one half."
    )
    most = "; ".join(f"{names[a]} as {names[b]}, {tally.answered[a, b]} times" for a, b in pairs[:3])
    alt = f"Confusion matrix of {len(chosen)} classes. Most frequent: {most}."
    matrix = drawn("confusions", alt, lambda theme: plots.confusion_matrix(theme, tally, chosen, names))
    return [figure(matrix, said, wide=True), pairs_table(report, pairs[:LISTED])]


def pairs_table(report: Report, pairs: Sequence[tuple[int, int]]) -> Html:
    store, found, rows = report.store, report.ours, []
    labels = store.labels.cpu().numpy()
    for a, b in pairs:
        query = with_picture(thumbnail(store, found.mistaken(a, b)), store.class_names[a])
        answer = with_picture(thumbnail(store, int(np.flatnonzero(labels == b)[0])), store.class_names[b])
        times, asked = found.tally.answered[a, b], found.tally.asked[a, b]
        rows.append([query, answer, f"{times:,} of {asked:,}", f"{100 * times / asked:.1f}"])
    said = "The pairs confused most often: a query that went wrong, and an image of the class that it was taken for."
    return table(said, ["query", "answered", "times, of queries that could be", "%"], rows)


def reliability(report: Report, drawn: Callable) -> list[str]:
    found = {name: calibration(findings.confidence, findings.right) for name, findings in report.measured.items()}
    said = " ".join(f"{name}: {sureness(each)}" for name, each in found.items())
    shown = drawn("calibration", f"Reliability diagram. {said}", lambda theme: plots.reliability(theme, found))
    return [
        figure(
            shown, f"{said} Above the dotted line answers are righter than they are sure, below it surer than right."
        )
    ]


def sureness(found: Calibration) -> str:
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
        "Neighbours are near each other in the embedding too; distances between groups say little."
    )
    return [figure(made, said)]


def examples(report: Report, drawn: Callable) -> list[str]:
    key = "✓ thin blue frame: right; ✗ thick orange frame: wrong, with the class that was answered."
    if report.ours.evaluation.class_ids.size and report.ours.scenes["best"].taken is not None:
        key += (
            " Under an unlabeled item: the class it was taken for most and the weight of that; out: left out. "
            "Dashed: a distractor, of no class of the episode; ✗ where more than half of it was taken."
        )
    parts: list[str] = [tag("p", key)]
    for name, scene in report.ours.scenes.items():
        rows = strips.rows_of(scene, report.store)
        shown = strips.shown_rows(rows)
        alt = strips.in_words(scene, rows)
        made = drawn(f"{name}-episode", alt, lambda theme, shown=shown: strips.strip(theme, shown, report.store))
        cut = f" {len(shown)} of {len(rows)} classes are drawn, those with the most mistakes." * (
            len(shown) < len(rows)
        )
        heading = tag("h3", f"The {name} episode: {100 * scene.accuracy:.1f} %")
        parts += [heading, figure(made, alt + cut, wide=True)]
    return parts


def how(report: Report, drawn: Callable) -> list[str]:
    return [tag("p", "The same command makes this page again:"), tag("pre", report.command), pairs_of(report.made)]
