"""The server refuses what is not its own page's, gives nothing away, and answers one question after the other."""

import json
import os
import re
import socket
import sys
import threading
import time

import pytest

from episodic.demo.server import MAX_BYTES, TOKEN, Handler
from tests.demo.asking import QUERIES, UNLABELED, ask, picture, question, refused, request


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
    status, error = refused(server, body=question(), **{TOKEN: token})
    assert (status, error) == (403, "the page is of another start of the demo: reload it")


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"Content_Length": None}, 411, "needs a Content-Length"),
        ({"Transfer_Encoding": "chunked"}, 411, "needs a Content-Length"),
        ({"Content_Length": "-1"}, 400, "must be a number of bytes, got -1"),
        ({"Content_Length": "many"}, 400, "must be a number of bytes, got many"),
        ({"Content_Length": ["1", "2"]}, 400, "must be a number of bytes, got 1, 2"),
        ({"Content_Length": str(MAX_BYTES + 1)}, 413, "at most 128 MiB at once"),
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
    monkeypatch.setattr(Handler, "timeout", 0.5)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as line:
        host = f"Host: 127.0.0.1:{server.server_port}\r\n{TOKEN}: {server.token}\r\nContent-Length: 100\r\n"
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
        assert found[i][1]["queries"][0]["plain"]["probabilities"] == pytest.approx(
            alone[i]["plain"]["probabilities"], abs=1e-4
        )


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
