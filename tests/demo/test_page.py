"""The page in a browser: pictures are given and dropped, answers are read, and names are never run as code."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.demo.asking import QUERIES, SHOTS, UNLABELED, ask, picture, png

CHROMIUM = shutil.which("chromium")


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
        while not self.evaluate(expression):
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
