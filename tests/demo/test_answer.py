"""The demo answers as the classifier does, and says what it could not read."""

import dataclasses
import io
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from episodic import FewShotClassifier, Task
from episodic.data.augment import Normalize
from episodic.data.image import PictureForm, as_pictures
from episodic.demo.answer import Demo, notes_on_polarity
from episodic.demo.question import HTTPError, Question
from tests.demo.asking import QUERIES, SHOTS, UNLABELED, ask, configured, picture, png, question, saved


def test_answers_are_those_of_the_classifier_on_the_same_files(server, run, tmp_path):
    status, found = ask(server, unlabeled=[picture(p) for p in UNLABELED], abstain=0.5)
    assert status == 200, found
    names = [name for name, shots in SHOTS.items() for _ in shots]
    shots = [path for name in SHOTS for path in saved(tmp_path / name, SHOTS[name])]
    queries, unlabeled = saved(tmp_path / "queries", QUERIES), saved(tmp_path / "unlabeled", UNLABELED)
    alone = FewShotClassifier(run, device="cpu", abstain=0.5).fit(shots, names)
    helped = FewShotClassifier(run, device="cpu", abstain=0.5, semi="label_propagation").fit(shots, names, unlabeled)
    assert found["wrapper"] == "label_propagation"
    for key, classifier in (("plain", alone), ("helped", helped)):
        columns = [list(classifier.classes_).index(name) for name in found["names"]]
        expected = classifier.predict_proba(queries)[:, columns]
        np.testing.assert_allclose([q[key]["probabilities"] for q in found["queries"]], expected, rtol=1e-5)
        for record, answer in zip(found["queries"], classifier.answers(queries), strict=True):
            assert found["names"][record[key]["label"]] == answer.label
            assert record[key]["probability"] == pytest.approx(answer.probability)
            assert record[key]["abstain"] == answer.abstain == (answer.probability < 0.5)
            c, i = record["nearest"]
            assert shots[answer.nearest] == tmp_path / list(SHOTS)[c] / f"{i}.png"
            assert record["similarity"] == pytest.approx(answer.similarity)
    assert found["queries"][0]["plain"] != found["queries"][0]["helped"]


def test_unlabeled_pictures_were_taken_as_the_learner_on_images_says(server, run):
    found = ask(server, unlabeled=[picture(p) for p in UNLABELED])[1]
    model = FewShotClassifier(run, device="cpu", semi="label_propagation").build()
    learner, form = model.learner, model.form
    normalize = Normalize(form.mean, form.std)
    shots = [data for of_class in SHOTS.values() for data in of_class]
    support, unlabeled, query = (
        normalize(as_pictures([Image.open(io.BytesIO(data)) for data in some], form))[None]
        for some in (shots, UNLABELED, QUERIES)
    )
    with torch.inference_mode():
        expected = learner.eval()(Task(support, torch.tensor([[0, 0, 1, 1, 2, 2]]), query, 3, unlabeled)).unlabeled[0]
    shares = torch.tensor([one["shares"] for one in found["unlabeled"]])
    torch.testing.assert_close(shares, expected, rtol=1e-3, atol=1e-3)


def alike(ours, theirs):
    """Whether two lists of queries have the same answers, up to rounding."""
    ours, theirs = ([query["plain"]["probabilities"] for query in queries] for queries in (ours, theirs))
    return np.allclose(ours, theirs, atol=1e-4)


def test_the_wrapper_that_is_chosen_is_used_and_without_pictures_for_it_nothing_changes(run):
    chosen = Demo(configured(run, "semi=soft_kmeans"))
    asked = Question.read(json.dumps(question(unlabeled=[picture(p) for p in UNLABELED])).encode())
    assert chosen.answer(asked)["wrapper"] == "soft_kmeans"
    none = chosen.answer(dataclasses.replace(asked, unlabeled=[]))
    assert none["wrapper"] is None
    assert all(one["helped"] is None for one in none["queries"])
    assert alike(none["queries"], chosen.answer(asked)["queries"])


def test_a_corrupt_picture_is_answered_by_its_reason_while_the_others_go_on(server, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    ruined = {
        "text.png": (picture(b"no picture"), "it is not a picture of a kind that is read here"),
        "empty.png": (picture(b""), "the file is empty"),
        "cut.png": (picture(png(40, 1)[:-100]), "truncated"),
        "page.eps": (picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n%%EndComments\n"), "it is not a picture"),
        "lost.png": ({"name": "", "data": "§"}, "it did not arrive whole"),
        "bomb.png": (picture(png(40, 1, size=33)), "more than 0 million pixels"),
        "large bomb.png": (picture(png(40, 1, size=60)), "more than 0 million pixels"),
    }  # fmt: skip
    bad = [given | {"name": name} for name, (given, _) in ruined.items()]
    classes = question()["classes"]
    classes[0]["pictures"] = [*bad, *classes[0]["pictures"]]
    status, found = ask(server, classes=classes, queries=[*question()["queries"], *bad], unlabeled=bad)
    assert status == 200, found
    whole = ask(server)[1]
    assert alike(found["queries"][:6], whole["queries"])
    assert found["queries"][0]["nearest"][1] == whole["queries"][0]["nearest"][1] + len(bad)
    for given, line, asked, unlabeled in zip(
        ruined.items(), found["failed"], found["queries"][6:], found["unlabeled"], strict=True
    ):
        name, (_, reason) = given
        assert line.startswith(f"dark: {name}: ")
        assert reason in line and reason in asked["error"] and reason in unlabeled["error"]  # noqa: PT018
    assert ask(server, queries=bad)[1]["queries"] == found["queries"][6:]
    status, found = ask(server, classes=[{"name": "lost", "pictures": bad}, *classes])
    assert (status, found["error"][:43]) == (422, "no picture of class 'lost' can be read: tex")


def test_many_classes_of_one_picture_keep_their_order_and_need_no_warning(server):
    names = [f"class {c}" for c in range(25)]  # as text, class 10 comes before class 2
    pictures = [picture(png(10 * c, c)) for c in range(25)]
    classes = [{"name": name, "pictures": [p]} for name, p in zip(names, pictures, strict=True)]
    found = ask(server, classes=classes, queries=pictures)[1]
    assert found["names"] == names
    assert found["notes"] == []
    assert [q["nearest"] for q in found["queries"]] == [[c, 0] for c in range(25)]
    assert [q["plain"]["label"] for q in found["queries"]] == list(range(25))


def test_a_warning_of_the_classifier_becomes_a_note(server):
    same = [picture(png(120, 5)), picture(png(120, 6))]
    crossed = [{"name": "a", "pictures": [same[0], same[1]]}, {"name": "b", "pictures": [same[1], same[0]]}]
    found = ask(server, classes=crossed, abstain="auto")[1]
    assert found["notes"] == ["abstain='auto': the most probable answers are wrong too often, so none counts"]
    assert all(q["plain"]["abstain"] for q in found["queries"])


def test_dark_on_bright_is_noted_for_a_model_of_bright_on_dark():
    ink, color = PictureForm(1, 4, (0.1,), (1.0,)), PictureForm(3, 4, (0.1,) * 3, (1.0,) * 3)
    paper = torch.full((2, 1, 4, 4), 240, dtype=torch.uint8)
    assert "mean gray is 0.94" in notes_on_polarity(ink, paper, False)[0]
    assert notes_on_polarity(ink, paper, True) == notes_on_polarity(ink, 255 - paper, False) == []
    assert notes_on_polarity(ink, 255 - paper, True)[0].endswith("do not turn gray values around (see Settings).")
    assert notes_on_polarity(color, paper.expand(2, 3, 4, 4), False) == []


def test_the_end_waits_for_the_answer_in_progress_and_begins_no_other(run, monkeypatch):
    made, begun, go, ended = Demo(configured(run)), threading.Event(), threading.Event(), []
    asked = Question([], [], [], [], [], False, None)

    def slow(question):
        begun.set()
        assert go.wait(30)
        ended.append("answer")
        return {"notes": []}

    monkeypatch.setattr(made, "_answer", slow)
    asking = threading.Thread(target=made.answer, args=(asked,))
    stopping = threading.Thread(target=lambda: (made.stop(), ended.append("stop")))
    asking.start()
    assert begun.wait(30)
    stopping.start()
    stopping.join(0.2)
    assert ended == []
    go.set()
    stopping.join(30)
    assert ended == ["answer", "stop"]
    made._lock.release()
    with pytest.raises(HTTPError, match="the demo is stopping"):
        made.answer(asked)
