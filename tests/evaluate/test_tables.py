import numpy as np
import pytest

from episodic.evaluate.intervals import Interval
from episodic.evaluate.scoring import Evaluation
from episodic.evaluate.tables import class_range, percent, protocol, record, score_row, table
from tests.conftest import random_store

SHAPE = {"n_way": 5, "n_shot": 1, "n_query": 15, "n_unlabeled": 0, "n_distractors": 0, "base_way": 0, "base_query": 0}


def test_columns_line_up_under_a_rule():
    lines = table(["name", "value"], [["a", "1"], ["longer name", "22"]]).splitlines()
    assert lines == ["name         value", "-----------  -----", "a            1", "longer name  22"]


def test_names_that_change_a_terminal_stay_in_their_column():
    lines = table(["class", "%"], [["a\x1b[2Jb", "1"], ["gnp\u202e", "2"], ["two\nlines", "3"]]).split("\n")
    assert [line[12:].strip() for line in lines] == ["%", "-", "1", "2", "3"]
    assert lines[2].startswith("a\\x1b[2Jb")


def test_intervals_are_shown_in_percent():
    assert percent(Interval(0.636, 0.0029, 0.0029)) == "63.60 ± 0.29"
    assert class_range(Interval(0.6, 0.011, 0.061)) == "58.9 to 66.1"
    assert class_range(None) == "-"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "5-way 1-shot, 15 queries a class, inductive"),
        ({"n_shot": [1, 5]}, "5-way 1-5-shot, 15 queries a class, inductive"),
        (
            {"n_unlabeled": 5, "n_distractors": 2},
            "5-way 1-shot, 15 queries a class, 5 unlabeled a class, 2 distractor classes, inductive",
        ),
        ({"base_way": 4, "base_query": 2}, "5-way 1-shot, 15 queries a class, 8 queries of 4 base classes, inductive"),
    ],
)
def test_a_protocol_says_what_an_episode_holds(changes, said):
    assert protocol(SHAPE | changes, transductive=False) == said
    assert protocol(SHAPE | changes, transductive=True) == said.replace("inductive", "transductive")


def test_a_record_and_a_row_say_the_same():
    store = random_store(split="val")
    evaluation = Evaluation(
        np.array([0.5, 0.7]), np.array([[0, 1], [2, 3]]), "abc", False, 1.25, {"base alone": np.array([0.1, 0.3])}
    )
    found, row = record(evaluation, store, SHAPE), score_row(evaluation, store)
    assert found["val/accuracy"] == pytest.approx(0.6)
    assert found["val/base_alone"] == pytest.approx(0.2)
    assert found["val/episodes"] == 2
    assert found["val/class_hash"] == store.class_hash
    assert row[0] == "patterns val"
    assert row[3] == percent(evaluation.interval)
