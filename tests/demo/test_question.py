"""A question that cannot be answered is refused with a line that says why."""

import pytest

from tests.demo.asking import ask, picture, question, refused

CLASSES = question()["classes"]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"classes": CLASSES[:1]}, 422, "at least two classes are needed, got 1"),
        ({"classes": [*CLASSES, {"name": " ", "pictures": []}]}, 422, "class 4 has no name"),
        ({"classes": [*CLASSES, {"name": "dark ", "pictures": []}]}, 422, "two classes are named 'dark'"),
        ({"classes": [*CLASSES, {"name": "new", "pictures": []}]}, 422, "class 'new' has no picture"),
        ({"classes": [*CLASSES, {"name": "x" * 101, "pictures": []}]}, 422, "101 characters, at most 100"),
        ({"classes": [*CLASSES, {"name": 3, "pictures": []}]}, 422, "not what the page sends"),
        ({"classes": None}, 422, "not what the page sends"),
        ({"queries": []}, 422, "there is no query"),
        ({"queries": [{"name": "a"}]}, 422, "not what the page sends"),
        ({"queries": [picture(b"")] * 495}, 413, "at most 500 pictures at once, got 501"),
        ({"unlabeled": [picture(b"")] * 495}, 413, "at most 500 pictures at once, got 507"),
        ({"abstain": 2}, 422, "abstain must be a number, at least 0 and at most 1"),
        ({"classes": [c | {"pictures": c["pictures"][:1]} for c in CLASSES], "abstain": "auto"}, 422, "leaves out"),
    ],
)
def test_a_question_that_cannot_be_answered_gets_a_line(server, changes, status, said):
    found, answer = ask(server, **changes)
    assert found == status
    assert said in answer["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_question_is_refused(server, body):
    assert refused(server, body=body) == (422, "the request is not what the page sends: reload the page")
