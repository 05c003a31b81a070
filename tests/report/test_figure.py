"""The figure of an episode: every item in its row, with its mark."""

import numpy as np
import pytest

from episodic.report.figure import Row, episode_figure, in_words, letter_of, rows_of, shown_rows, unlabeled_mark
from episodic.report.measurements import measure
from episodic.report.plots import LIGHT, picture
from tests.conftest import random_store
from tests.report.cases import FP32, PLAIN, SEMI, semi_supervised, with_base_classes


@pytest.mark.parametrize("make", [semi_supervised, with_base_classes])
def test_every_item_stands_in_the_row_of_its_class_with_its_answer(make):
    learner, store, episodes = make()
    example = measure(learner, store, episodes, PLAIN, FP32).examples["median"]
    rows, labels = rows_of(example, store), store.labels.tolist()
    letters = {row.letter: row.name for row in rows if row.letter not in ("", "–")}
    for row in rows:
        for mark in [mark for marks in row.marks.values() for mark in marks]:
            assert store.class_names[labels[mark.item]] == row.name or row.name == "base classes"
    told = [mark for row in rows for mark in row.marks["queries"]]
    assert np.mean([mark.right for mark in told]) == pytest.approx(example.accuracy)
    order = {int(item): place for place, item in enumerate(example.indices.query[0])}
    assert sorted(mark.item for mark in told) == sorted(order)
    for mark in told:
        answer = int(example.answers[order[mark.item]])
        if not mark.right and answer < example.indices.n_way:
            assert letters[mark.text.split()[1]] == store.class_names[example.indices.class_ids[0, answer]]
        assert mark.text.startswith("✓" if mark.right else "✗")
    wrong = sum(not mark.right for mark in told)
    assert f"{len(told) - wrong} of {len(told)} queries right" in in_words(example, rows)
    distractors = [row for row in rows if row.distractor]
    assert sum(len(row.marks["unlabeled"]) for row in distractors) == (example.indices.unlabeled_y < 0).sum()
    assert len(distractors) == (SEMI["n_distractors"] if example.taken is not None else 0)


@pytest.mark.parametrize(
    ("truth", "taken", "right", "text"),
    [
        (0, [0.8, 0.1], True, "✓ A 0.8"),
        (1, [0.8, 0.1], False, "✗ A 0.8"),
        (1, [0.0, 0.01], False, "✗ out"),
        (-1, [0.0, 0.01], True, "✓ out"),
        (-1, [0.3, 0.1], True, "✓ A 0.3"),
        (-1, [0.3, 0.4], False, "✗ B 0.4"),
        (0, None, None, ""),
    ],
)
def test_an_unlabeled_item_is_marked_by_what_was_done_to_it(truth, taken, right, text):
    mark = unlabeled_mark(7, truth, None if taken is None else np.array(taken))
    assert (mark.item, mark.right, mark.text) == (7, right, text)


def test_classes_are_lettered_like_the_columns_of_a_sheet():
    assert [letter_of(way, 60) for way in (0, 25, 26, 51, 52, 60)] == ["A", "Z", "AA", "AZ", "BA", "base"]


def test_of_many_classes_those_with_most_mistakes_are_drawn():
    def row(wrong):
        marks = [unlabeled_mark(0, 0, np.array([0.0, 1.0]))] * wrong
        return Row("A", str(wrong), {"support": [], "queries": marks, "unlabeled": []})

    few = [row(wrong) for wrong in (2, 0, 3)]
    assert shown_rows(few) == few
    assert [int(r.name) for r in shown_rows([row(wrong) for wrong in range(30)])] == list(range(29, 19, -1))


def test_right_and_wrong_differ_by_sign_frame_and_color():
    marks = [unlabeled_mark(0, 0, np.array(taken)) for taken in ([1.0, 0.0], [0.0, 1.0])]
    figure = episode_figure(LIGHT, [Row("A", "a", {"support": [], "queries": marks, "unlabeled": []})], random_store())
    frames = figure.axes[0].patches
    assert frames[0].get_linewidth() < frames[1].get_linewidth()
    assert frames[0].get_edgecolor() != frames[1].get_edgecolor()
    assert {"✓ A 1.0", "✗ B 1.0"} <= {text.get_text() for text in figure.axes[0].texts}


def test_names_in_any_script_or_with_signs_of_mathematics_can_be_drawn():
    names = ["$x^", "a\nb\x07c", "漢字", "_" * 90, "", "\\frac{", "🦀"]
    rows = [Row("A", name, {"support": [], "queries": [unlabeled_mark(0, 0, None)], "unlabeled": []}) for name in names]
    made = picture("episode", "alt", lambda theme: episode_figure(theme, rows, random_store()))
    assert made.light.startswith(b"\x89PNG")
    assert made.light != made.dark
