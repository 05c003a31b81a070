"""The page answers as the classifier does, refuses what is not its own page's, and works in a browser."""

import base64
import dataclasses
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from episodic import FewShotClassifier, Task, demo
from episodic.assemble.asked import with_parts
from episodic.assemble.learner import build_parts
from episodic.assemble.saved import model_of
from episodic.config.command import command
from episodic.config.compose import compose_config
from episodic.data.augment import Normalize
from episodic.data.image import PictureForm, as_pictures
from episodic.run.run import Run
from tests.test_classifier import SMALL

TONES = {"dark": 40, "gray": 128, "bright": 220}
CHROMIUM = shutil.which("chromium")


def png(tone: int, seed: int, size: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).normal(tone, 25, size=(size, size)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(data: bytes, name: str = "a.png") -> dict[str, str]:
    return {"name": name, "data": base64.b64encode(data).decode()}


SHOTS = {name: [png(tone, 10 * i + tone) for i in range(2)] for name, tone in TONES.items()}
QUERIES = [png(tone, 7 + tone + i) for tone in TONES.values() for i in range(2)]
UNLABELED = [png(tone, 900 + tone + i) for tone in TONES.values() for i in range(3)]


def question(**changes) -> dict:
    asked = {
        "classes": [{"name": name, "pictures": [picture(p) for p in shots]} for name, shots in SHOTS.items()],
        "queries": [picture(p) for p in QUERIES],
        "unlabeled": [],
        "invert": False,
        "abstain": None,
    }
    return asked | changes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    cfg = compose_config("train", [*SMALL, f"run={folder}"])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    learner = build_parts(cfg).learner
    Run(folder).save("best", learner, torch.optim.SGD(learner.parameters()), {})
    return str(folder)


def configured(run, *options):
    arguments = [f"run={run}", "device=cpu", "port=0", *options]
    return compose_config("demo", with_parts(arguments))


@pytest.fixture(scope="module")
def server(run):
    with demo.DemoServer(demo.Demo(configured(run)), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(server, method="POST", path="/answer", body=b"", **headers):
    """`(status, headers, body)` of a request with the right token and host; a header that is None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    right = {"Host": f"127.0.0.1:{server.server_port}", demo.TOKEN: server.token, "Content-Length": str(len(body))}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (right | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                connection.putheader(name, one)
    connection.endheaders(body)
    response = connection.getresponse()
    found = response.status, response.headers, response.read()
    connection.close()
    return found


def ask(server, **changes):
    status, _, body = request(server, body=question(**changes))
    return status, json.loads(body)


def refused(server, **how):
    status, headers, body = request(server, **how)
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    return status, json.loads(body)["error"]


def saved(folder, pictures):
    folder.mkdir(exist_ok=True)
    for i, data in enumerate(pictures):
        (folder / f"{i}.png").write_bytes(data)
    return [folder / f"{i}.png" for i in range(len(pictures))]


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
    learner, _, form, _ = model_of(FewShotClassifier(run, device="cpu", semi="label_propagation"))
    normalize = Normalize(form.mean, form.std)
    shots = [data for of_class in SHOTS.values() for data in of_class]
    support, unlabeled, query = (
        normalize(as_pictures([Image.open(io.BytesIO(data)) for data in some], form))[None]
        for some in (shots, UNLABELED, QUERIES)
    )
    with torch.inference_mode():
        expected = learner.eval()(Task(support, torch.tensor([[0, 0, 1, 1, 2, 2]]), query, 3, unlabeled)).unlabeled[0]
    shares = torch.tensor([one["shares"] for one in found["unlabeled"]])
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-5)


def test_the_wrapper_that_is_chosen_is_used_and_without_pictures_for_it_nothing_changes(run):
    chosen = demo.Demo(configured(run, "semi=soft_kmeans"))
    asked = demo.Question.read(json.dumps(question(unlabeled=[picture(p) for p in UNLABELED])).encode())
    assert chosen.answer(asked)["wrapper"] == "soft_kmeans"
    none = chosen.answer(dataclasses.replace(asked, unlabeled=[]))
    assert none["wrapper"] is None
    assert all(one["helped"] is None for one in none["queries"])
    assert [q["plain"] for q in none["queries"]] == [q["plain"] for q in chosen.answer(asked)["queries"]]


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
    assert [q["plain"] for q in found["queries"][:6]] == [q["plain"] for q in whole["queries"]]
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


@pytest.mark.parametrize("host", [None, "evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", ["127.0.0.1:{}"] * 2])
def test_another_name_for_this_address_is_refused(server, host):
    host = [one.format(server.server_port) for one in host] if isinstance(host, list) else host
    for method, path in (("GET", "/"), ("POST", "/answer")):
        status, error = refused(server, method=method, path=path, body=question(), Host=host)
        assert (status, error) == (403, f"open this page at {server.url}")
    assert request(server, "GET", "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_only_the_loopback_address_listens(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.server_port), timeout=5)


@pytest.mark.parametrize("token", [None, "", "wrong", "ümlaut".encode()])
def test_a_request_without_the_token_of_the_page_is_refused(server, token):
    status, error = refused(server, body=question(), **{demo.TOKEN: token})
    assert (status, error) == (403, "the page is of another start of the demo: reload it")


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"Content_Length": None}, 411, "needs a Content-Length"),
        ({"Transfer_Encoding": "chunked"}, 411, "needs a Content-Length"),
        ({"Content_Length": "-1"}, 400, "must be a number of bytes, got -1"),
        ({"Content_Length": "many"}, 400, "must be a number of bytes, got many"),
        ({"Content_Length": ["1", "2"]}, 400, "must be a number of bytes, got 1, 2"),
        ({"Content_Length": str(demo.MAX_BYTES + 1)}, 413, "at most 128 MiB at once"),
        ({"Content_Length": "9" * 5000}, 413, "at most 128 MiB at once"),
        ({"Content_Length": "3"}, 422, "not what the page sends"),
    ],
)
def test_a_missing_or_false_length_is_refused(server, headers, status, said):
    found, error = refused(server, body=question(), **headers)
    assert found == status
    assert said in error


@pytest.mark.parametrize("ended", [True, False])
def test_a_request_shorter_than_it_says_is_answered(server, monkeypatch, ended):
    monkeypatch.setattr(demo.Handler, "timeout", 0.5)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as line:
        host = f"Host: 127.0.0.1:{server.server_port}\r\n{demo.TOKEN}: {server.token}\r\nContent-Length: 100\r\n"
        line.sendall(f"POST /answer HTTP/1.1\r\n{host}\r\n{{}}".encode())
        if ended:
            line.shutdown(socket.SHUT_WR)
        reply = line.makefile("rb").read()
    if ended:
        assert b" 400 " in reply
        assert b"the request ended after 2 of 100 bytes" in reply
    else:
        assert b" 408 " in reply
        assert b"no byte came for 0.5 seconds" in reply


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
        ({"abstain": 2}, 422, "abstain must be None, 'auto' or a probability"),
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


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", path) for path in ("/demo.html", "/answer", "/../demo.py", "/%2e%2e/demo.py", "/?a", "//etc/passwd")],
        ("GET", "http://evil.example/"), ("POST", "/"), ("POST", "/answer/../answer"), ("HEAD", "/x"),
    ],
)  # fmt: skip
def test_there_is_nothing_but_the_page_and_its_answers(server, method, path):
    assert request(server, method, path)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "DELETE", "TRACE"])
def test_other_methods_are_refused(server, method):
    status, error = refused(server, method=method, path="/answer")
    assert (status, error) == (501, f"Unsupported method ({method!r})")


def test_the_page_allows_its_own_script_alone_and_is_never_kept(server):
    nonces = set()
    for _ in range(2):
        status, headers, body = request(server, "GET", "/")
        page = body.decode()
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert (status, headers["Cache-Control"], policy["default-src"]) == (200, "no-store", "'none'")
        assert (policy["img-src"], policy["connect-src"]) == ("data:", "'self'")
        (nonce,) = re.findall(r"<script nonce=\"([^\"]+)\">", page)
        assert policy["script-src"] == policy["style-src"] == f"'nonce-{nonce}'"
        assert not re.findall(r"https?://|\son\w+=\"|\sstyle=|\{\{", page)
        nonces.add(nonce)
    assert len(nonces) == 2
    status, headers, body = request(server, "HEAD", "/")
    assert (status, int(headers["Content-Length"]), body) == (200, len(page.encode()), b"")


def test_the_name_of_a_model_cannot_leave_its_place_in_the_page(server, monkeypatch):
    name = "</script><script>alert(1)</script>{{nonce}}"
    monkeypatch.setattr(server.demo, "about", name)
    page = request(server, "GET", "/")[2].decode()
    assert page.count("<script") == 2
    assert json.loads(page.split('id="settings">')[1].split("</script>")[0])["about"] == name


def test_questions_wait_for_each_other_and_each_gets_its_own_answer(server, monkeypatch):
    inside, most, own = 0, 0, server.demo._answer

    def watched(asked):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        found = own(asked)
        inside -= 1
        return found

    monkeypatch.setattr(server.demo, "_answer", watched)
    alone = ask(server)[1]["queries"]
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: ask(server, queries=[picture(QUERIES[i])])}))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    for i in range(6):
        assert found[i][1]["queries"][0]["plain"]["probabilities"] == pytest.approx(alone[i]["plain"]["probabilities"])


WRITTEN: list[str] | None = None


def _watch(event, arguments):
    if WRITTEN is not None and event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        WRITTEN.append(str(arguments[0]))


def test_nothing_is_written_to_the_disk(server, tmp_path):
    global WRITTEN
    sys.addaudithook(_watch)
    WRITTEN = []
    (tmp_path / "seen").touch()
    assert [str(tmp_path / "seen")] == WRITTEN
    assert ask(server, unlabeled=[picture(p) for p in UNLABELED])[0] == 200
    assert [str(tmp_path / "seen")] == WRITTEN
    WRITTEN = None


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
    assert "mean gray is 0.94" in demo.polarity(ink, paper, False)[0]
    assert demo.polarity(ink, paper, True) == demo.polarity(ink, 255 - paper, False) == []
    assert demo.polarity(ink, 255 - paper, True)[0].endswith("do not turn gray values around (see Settings).")
    assert demo.polarity(color, paper.expand(2, 3, 4, 4), False) == []


def called(monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["demo", "device=cpu", *options])
    code = 0
    try:
        command("demo", demo.main, with_parts)
    except SystemExit as stop:
        code = stop.code
    return code, "".join(capsys.readouterr())


def test_the_command_says_where_the_page_is_and_ends_by_ctrl_c_with_a_line(run, monkeypatch, capsys):
    serve = demo.DemoServer.serve_forever

    def interrupted(server):
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        serve(server)

    monkeypatch.setattr(demo.DemoServer, "serve_forever", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have told to ignore it
    try:
        code, printed = called(monkeypatch, capsys, f"run={run}", "port=0")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 0
    assert re.fullmatch(
        rf"{run}: Prototypical on Conv4, unlabeled pictures by label_propagation; 16 × 16 gray\.\n"
        r"Open http://127\.0\.0\.1:\d+/ in a browser on this machine\. Ctrl-C ends it\.\n\nStopped\.\n", printed
    )  # fmt: skip


def test_the_end_waits_for_the_answer_in_progress_and_begins_no_other(run, monkeypatch):
    made, begun, go, ended = demo.Demo(configured(run)), threading.Event(), threading.Event(), []
    asked = demo.Question([], [], [], [], [], False, None)

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
    with pytest.raises(demo.HTTPError, match="the demo is stopping"):
        made.answer(asked)


def test_what_cannot_be_served_is_one_line(server, run, monkeypatch, capsys, tmp_path):
    FewShotClassifier(device="cpu").fit(np.eye(4), [1, 1, 2, 2]).save(tmp_path / "features.safetensors")
    for options, said in (
        ([f"run={run}", f"port={server.server_port}"], f"port {server.server_port} cannot be used (Address already in"),
        ([f"run={run}", "port=65536"], "port must be a number from 0 (one that is free) to 65535, got 65536"),
        ([f"run={run}", "port=http"], "port must be a number from 0 (one that is free) to 65535, got 'http'"),
        ([f"model={tmp_path}/features.safetensors"], "compares features, not pictures"),
        ([f"run={tmp_path}"], "is not a run"),
        (["port=0"], "which model?"),
    ):
        code, printed = called(monkeypatch, capsys, *options)
        assert (code, printed.count("\n")) == (2, 1), printed
        assert printed.startswith("episodic.demo.server: ")
        assert said in printed


class Browser:
    """Chromium by its DevTools protocol over a pair of pipes."""

    def __init__(self, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        start = "import os, sys; a, b = map(int, sys.argv[1:3]); os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        program = [sys.executable, "-S", "-c", start, str(theirs_in), str(theirs_out), CHROMIUM, *options]
        self.process = subprocess.Popen(
            [*program, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.reader, self.writer = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb", buffering=0)
        self.events, self.session, self.asked, self.pending = [], None, 0, b""

    def __enter__(self):
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.close()
        self.writer.close()

    def call(self, method, **parameters):
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.writer.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.asked:
                assert "result" in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        while b"\0" not in self.pending:
            more = self.reader.read1(2**16)
            assert more, "the browser has ended"
            self.pending += more
        message, self.pending = self.pending.split(b"\0", 1)
        return json.loads(message)

    def evaluate(self, expression):
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, expression):
        deadline = time.monotonic() + 60
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.1)

    def give(self, label, pictures):
        """Put files into the input of that label."""
        given = json.dumps([[name, base64.b64encode(data).decode()] for name, data in pictures])
        self.evaluate(
            f"""{{ const box = new DataTransfer(), input = [...document.querySelectorAll("input[type=file]")]
              .find(one => one.getAttribute("aria-label") === {json.dumps("Add pictures: " + label)});
            for (const [name, data] of {given})
              box.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {{ type: "image/png" }}));
            input.files = box.files;
            input.dispatchEvent(new Event("change")); }}"""
        )

    def complaints(self):
        """What the console has of errors."""
        self.evaluate("0")
        of = {"Runtime.exceptionThrown", "Log.entryAdded"}
        logged = [e for e in self.events if e["method"] == "Runtime.consoleAPICalled"]
        return [e for e in self.events if e["method"] in of] + [e for e in logged if e["params"]["type"] == "error"]


@pytest.fixture
def browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with Browser(tmp_path / "profile") as browser:
        yield browser


def name_classes(browser):
    """The three classes by name, with their pictures."""
    browser.evaluate("document.getElementById('add').click()")
    for c, (name, shots) in enumerate(SHOTS.items()):
        box = f"document.querySelectorAll('#classes input[type=text]')[{c}]"
        browser.evaluate(f"{box}.value = {name!r}; {box}.dispatchEvent(new Event('input'))")
        browser.give(name, [(f"{name}{i}.png", data) for i, data in enumerate(shots)])
    browser.wait_for("document.querySelectorAll('#classes img').length === 6")


def test_in_a_browser_pictures_are_given_and_the_answer_is_read(server, browser):
    browser.call("Page.navigate", url=server.url)
    browser.wait_for("document.querySelectorAll('#classes .zone').length === 2")
    browser.evaluate("document.getElementById('go').click()")
    browser.wait_for("document.getElementById('error').textContent !== ''")
    assert browser.evaluate("document.getElementById('error').textContent") == (
        "Class 'Class 1' has no picture: add one, or remove the class."
    )
    browser.events = [e for e in browser.events if "422" not in json.dumps(e)]  # Chromium logs each such status
    name_classes(browser)
    browser.give("pictures to name", [*((f"q{i}.png", data) for i, data in enumerate(QUERIES)), ("bad.png", b"bad")])
    browser.give("pictures without names", [(f"u{i}.png", data) for i, data in enumerate(UNLABELED)])
    browser.wait_for("document.querySelectorAll('main img').length === 22")
    browser.evaluate("document.getElementById('go').click()")
    browser.wait_for("!document.getElementById('answers').hidden")

    found = ask(server, unlabeled=[picture(p) for p in UNLABELED])[1]
    headings = browser.evaluate("[...document.querySelectorAll('article h3')].map(one => one.textContent)")
    best = [q["helped"] for q in found["queries"]]
    assert [h.split(",")[0] for h in headings] == [*(found["names"][b["label"]] for b in best), "bad.png"]
    cells = browser.evaluate(
        "[...document.querySelector('article tbody').rows].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    for name, helped, plain in cells:
        c = found["names"].index(name)
        for text, key in ((helped, "helped"), (plain, "plain")):
            share = found["queries"][0][key]["probabilities"][c]
            assert float(text.removesuffix("\xa0%")) == pytest.approx(100 * share, abs=0.051)
    assert "kind that is read here" in browser.evaluate("document.querySelector('#found').textContent")
    said = browser.evaluate("[...document.querySelectorAll('.said')].map(one => one.textContent.split(',')[0])")
    assert said == [found["names"][int(np.argmax(one["shares"]))] for one in found["unlabeled"]]
    nearest = browser.evaluate("document.querySelector('.near img').alt")
    c, i = found["queries"][0]["nearest"]
    assert nearest == f"{list(SHOTS)[c]}{i}.png"
    browser.evaluate("document.querySelector('#queries .thumbs button').click()")
    assert browser.evaluate("document.getElementById('found').classList.contains('stale')")
    assert browser.complaints() == []


def test_in_a_browser_dropped_pictures_are_taken_and_no_code_in_names_is_run(server, browser):
    browser.call("Page.navigate", url=server.url)
    browser.wait_for("document.querySelectorAll('#classes .zone').length === 2")
    name = "<img src=x onerror=window.ran=1>.png"
    data = base64.b64encode(png(40, 3)).decode()
    browser.evaluate(
        f"""{{ const box = new DataTransfer();
        box.items.add(new File([Uint8Array.from(atob("{data}"), c => c.charCodeAt(0))], {name!r}, {{ type: "image/png" }}));
        document.querySelector("#queries .zone").dispatchEvent(
          new DragEvent("drop", {{ dataTransfer: box, bubbles: true, cancelable: true }})); }}"""
    )
    browser.wait_for("document.querySelectorAll('#queries img').length === 1")
    assert browser.evaluate("document.querySelector('#queries img').alt") == name
    assert browser.evaluate("document.querySelector('#queries button').getAttribute('aria-label')") == f"Remove {name}"
    browser.evaluate("document.querySelector('#queries button').click()")
    assert browser.evaluate("document.activeElement.type") == "file"
    assert browser.evaluate("window.ran") is None
    assert browser.complaints() == []


def test_in_a_browser_no_width_of_a_phone_is_exceeded(server, browser):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    browser.call("Page.navigate", url=server.url)
    browser.wait_for("document.querySelectorAll('#classes .zone').length === 2")
    name_classes(browser)
    browser.give("pictures to name", [("q.png", QUERIES[0])])
    browser.give("pictures without names", [("u.png", UNLABELED[0])])
    browser.wait_for("document.querySelectorAll('main img').length === 8")
    browser.evaluate("document.getElementById('go').click()")
    browser.wait_for("!document.getElementById('answers').hidden")
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
