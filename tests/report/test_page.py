"""The page of a report: all its numbers, nothing that could be run, and all its pictures in a browser."""

import dataclasses
import html
import re
import shutil
import subprocess
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import t
from torch import nn

from episodic.evaluate.intervals import Interval
from episodic.evaluate.tables import class_range, percent
from episodic.learners.prototypical import Prototypical
from episodic.report.measurements import measure
from episodic.report.page import Report, build_page, spread_in_words, verdict
from episodic.report.plane import plane
from tests.conftest import random_store
from tests.report.cases import FP32, PLAIN, conv4, sampler_of, semi_supervised
from tests.report.reader import Reader

PROTOCOLS = {"train/accuracy": "20-way 1-shot", "val/accuracy": "5-way 1-shot"}
EVIL = "<script>alert(1)</script>"
CHROMIUM = shutil.which("chromium")
PROBE = """<script>addEventListener("load", () => {
  const pictures = [...document.images], wide = document.documentElement.scrollWidth - innerWidth;
  const broken = pictures.filter(image => !image.complete || image.naturalWidth == 0).length;
  const outside = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
  parent.document.title = JSON.stringify([pictures.length, broken, outside, wide, innerWidth]);
})</script>"""


def report_of(learner, store, episodes, rival=None):
    measured = {"ours": measure(learner, store, episodes, PLAIN, FP32)}
    if rival:
        measured["theirs"] = measure(rival, store, episodes, PLAIN, FP32)
    curves = {tag: (np.array([10, 50]), np.array([0.25, 0.5])) for tag in ("train/loss", *PROTOCOLS)}
    return Report(
        title=f"title {EVIL}",
        protocol="protocol",
        caution="take care",
        facts={"run": EVIL, "none": ""},
        store=store,
        measured=measured,
        curves=curves,
        protocols=PROTOCOLS,
        plane=plane(learner, store, measured["ours"].counts.hardest[:10].tolist(), PLAIN, FP32),
        command=f"python {EVIL}",
        made={},
    )


@pytest.fixture(scope="module")
def report():
    learner, store, episodes = semi_supervised()
    names = (EVIL, 'a "quoted" & <b>', "$x^", *store.class_names[3:])
    items = (f"{EVIL}.png", *store.item_names[1:])
    store = dataclasses.replace(store, class_names=names, item_names=items)
    return report_of(learner, store, episodes, rival=Prototypical(conv4(seed=1)))


@pytest.fixture(scope="module")
def built(report):
    return build_page(report)


def test_text_from_data_cannot_become_html(built):
    reader = Reader(built[0])
    assert not reader.all("script", "b")
    assert reader.text.count(EVIL) >= 5
    assert {
        name for attrs in map(dict, (a for _, a in reader.tags)) for name in attrs if name.startswith("on")
    } == set()


def test_the_page_needs_nothing_else(built):
    reader = Reader(built[0])
    for attrs in reader.all("img"):
        assert attrs["src"].startswith("data:image/png;base64,")
        assert attrs["alt"]
        assert int(attrs["width"]) > 0
    assert all(attrs["srcset"].startswith("data:") for attrs in reader.all("source"))
    assert all(not attrs.keys() & {"href", "src"} for attrs in reader.all("link", "iframe", "object"))
    assert "url(" not in built[0]
    [policy] = [attrs["content"] for attrs in reader.all("meta") if attrs.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert built[0].isascii()


def test_headings_are_in_order_and_the_contents_lead_to_them(built):
    reader = Reader(built[0])
    levels = [int(name[1]) for name, _ in reader.tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    links = [attrs["href"] for attrs in reader.all("a")]
    assert links == [f"#{attrs['id']}" for attrs in reader.all("h2")]
    assert len(links) == len(set(links)) == 9


def test_every_figure_is_there_for_light_and_for_dark_pages(built):
    page, pictures = built
    assert page.count("prefers-color-scheme: dark)") == len(pictures) + 1
    names = [picture.name for picture in pictures]
    assert {"classes", "episodes", "training", "confusions", "calibration", "embeddings"} < set(names)
    assert {"best-episode", "median-episode", "worst-episode"} < set(names)
    assert all(picture.light != picture.dark for picture in pictures)


def test_the_figures_are_those_of_the_evaluation(report, built):
    text = Reader(built[0]).text
    for found in report.measured.values():
        assert f"{percent(found.evaluation.interval)} %" in text
        for values in found.evaluation.details.values():
            assert f"{100 * values.mean():.2f} ±" in text
    ours, theirs = (found.evaluation.accuracies for found in report.measured.values())
    difference = ours - theirs
    half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
    assert f"{100 * difference.mean():.2f} ± {100 * half:.2f}" in text
    counts, hardest = report.ours.counts, report.ours.counts.hardest[0]
    assert class_range(counts.interval(int(hardest))).replace(" ", "\xa0") in text
    assert class_range(report.difference_over_classes) in text


def test_the_difference_over_classes_is_that_of_leaving_each_class_out(report):
    ours, theirs = (found.evaluation for found in report.measured.values())
    difference, left_out = ours.accuracies - theirs.accuracies, []
    for c in np.unique(ours.class_ids):
        without = [value for value, ids in zip(difference, ours.class_ids, strict=True) if c not in ids]
        left_out.append(np.mean(without))
    classes = len(left_out)
    error = np.sqrt((classes - 1) / classes * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    found = report.difference_over_classes
    assert found.mean == pytest.approx(difference.mean())
    assert found.half_width == pytest.approx(t.ppf(0.975, classes - 1) * error, rel=0.1)
    assert dataclasses.replace(report, measured={"ours": report.ours}).difference_over_classes is None


@pytest.mark.parametrize(
    ("mean", "half", "over", "words"),
    [
        (0.02, 0.01, None, "better on these validation classes, beyond the draw of the episodes"),
        (0.02, 0.01, 0.015, "better .* episodes and that of the classes \\(over classes 0.5 to 3.5\\)"),
        (-0.02, 0.01, 0.03, "worse .* episodes; of other classes nothing is shown \\(over classes -5.0 to 1.0\\)"),
        (-0.02, 0.01, 0.015, "worse on these validation classes.* and that of the classes .*"),
        (0.02, 0.03, 0.01, "no difference is shown: the interval holds 0"),
    ],
)
def test_a_difference_is_called_one_only_beyond_its_interval(mean, half, over, words):
    over_classes = None if over is None else Interval(mean, over, over)
    assert re.fullmatch(words, verdict(Interval(mean, half, half), over_classes, "validation"))


@pytest.mark.parametrize("perfect", [0, 3, 41])
def test_the_shares_of_episodes_are_those_of_a_count(perfect):
    random = np.random.default_rng(0)
    rights = [75] * perfect + random.integers(60, 75, size=100 - perfect).tolist()
    said = spread_in_words(np.array(rights) / 75)
    middle = sorted(rights)[49]
    assert said.startswith(f"the median episode has {100 * middle / 75:.1f} %; ")
    sides = re.findall(r"([\d.]+) % (?:of the episodes are )?at or (below|above) ([\d.]+) %", said)
    assert [side for _, side, _ in sides] == (["below"] if perfect > 5 else ["below", "above"])
    for share, side, bound in sides:
        beyond = [r for r in rights if (100 * r / 75 - float(bound)) * (-1 if side == "below" else 1) > -0.1]
        assert float(share) == len(beyond) >= 5
    assert (f" {perfect}.0 % are without a mistake." in said) == (perfect > 5)


def test_the_page_names_the_split_and_what_each_curve_is_of(report):
    store = dataclasses.replace(report.store, split="val")
    text = Reader(build_page(dataclasses.replace(report, store=store))[0]).text
    assert "the draw of the validation classes" in text
    assert "test classes" not in text
    assert "take care" in text
    assert "train/accuracy (20-way 1-shot) ends at 50.0 % (step 50)" in text
    assert "val/accuracy (5-way 1-shot) ends at 50.0 % (step 50)" in text
    assert "their accuracies do not compare" in text


def test_many_classes_a_perfect_learner_and_no_curves_are_said_in_words():
    store = random_store(classes=60, per_class=6, separation=9.0)
    pixels = nn.Flatten()
    pixels.shape = (256,)
    report = report_of(Prototypical(pixels), store, sampler_of(store, episodes=300, n_shot=3, n_query=3))
    report = dataclasses.replace(report, curves={}, plane=None)
    assert report.ours.right.all()
    page, pictures = build_page(report)
    text = Reader(page).text
    assert "60 were never mistaken" in text
    assert "no classes were confused" in text
    assert "There are no TensorBoard events" in text
    assert "no embeddings" in text
    assert "class-ranks" in [picture.name for picture in pictures]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to open the page")
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_a_browser_shows_every_picture_without_a_word_and_without_scrolling_sideways(built, tmp_path, width, scheme):
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", built[0]).replace(
        "</body>", f"{PROBE}</body>"
    )
    # In a frame, since a window is never as narrow as a phone.
    frame = f'<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>not loaded</title>{frame}")
    (tmp_path / "report.html").write_text(built[0])
    told = ""
    for name in ("report.html", "frame.html"):
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
             "--v=0", f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / name}"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr, done.stderr
        told = done.stdout
    pictures, broken, outside, wide, inner = map(int, re.search(r"<title>\[(.*?)\]", told)[1].split(","))
    assert pictures == len(Reader(built[0]).all("img")) > 15
    assert (broken, outside) == (0, 0)
    assert (wide, inner) == (0, width)
