import dataclasses
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from torch import nn

from episodic.learners.prototypical import Prototypical
from episodic.metrics import Interval
from episodic.pages.findings import measure, plane
from episodic.pages.markup import tag
from episodic.pages.page import Report, build_page, verdict
from episodic.score import percent
from tests.conftest import random_store
from tests.pages.test_findings import semi_supervised
from tests.test_loop import FP32, PLAIN, conv4, sampler_of

EVIL = "<script>alert(1)</script>"


def report_of(learner, store, episodes, rival=None):
    measured = {"ours": measure(learner, store, episodes, PLAIN, FP32)}
    if rival:
        measured["theirs"] = measure(rival, store, episodes, PLAIN, FP32)
    curves = {"train/loss": (np.arange(10, 60, 10), np.arange(5.0)), "val/accuracy": (np.array([50]), np.array([0.5]))}
    shown = plane(learner, store, measured["ours"].tally.hardest[:10].tolist(), PLAIN, FP32)
    return Report(
        f"title {EVIL}", "protocol", {"run": EVIL, "none": ""}, store, measured, curves, shown, f"python {EVIL}", {}
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


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, *names):
        return [attrs for name, attrs in self.tags if name in names]


def test_text_from_data_cannot_become_html(built):
    reader = Reader(built[0])
    assert not reader.all("script", "b")
    assert reader.text.count(EVIL) >= 5
    assert {
        name for attrs in map(dict, (a for _, a in reader.tags)) for name in attrs if name.startswith("on")
    } == set()
    assert tag("p", '<&">', title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">&lt;&amp;&quot;&gt;</p>'


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
    tally, hardest = report.ours.tally, report.ours.tally.hardest[0]
    assert f"{100 * tally.mean[hardest]:.2f}\xa0± {100 * tally.half_width[hardest]:.2f}".replace(" ", "\xa0") in text


@pytest.mark.parametrize(
    ("mean", "half", "word"), [(0.02, 0.01, "better"), (-0.02, 0.01, "worse"), (0.02, 0.03, "no difference")]
)
def test_a_difference_is_called_one_only_beyond_its_interval(mean, half, word):
    assert verdict(Interval(mean, half, half)).startswith(word)


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


CHROMIUM = shutil.which("chromium")
PROBE = """<script>addEventListener("load", () => {
  const pictures = [...document.images], wide = document.documentElement.scrollWidth - innerWidth;
  const broken = pictures.filter(image => !image.complete || image.naturalWidth == 0).length;
  const outside = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
  parent.document.title = JSON.stringify([pictures.length, broken, outside, wide, innerWidth]);
})</script>"""


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
