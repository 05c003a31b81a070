"""The web server of the demo: it serves the page and its answers, to this machine only."""

from __future__ import annotations

import json
import secrets
import sys
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from episodic.config.compose import ConfigError
from episodic.demo.answer import Demo
from episodic.demo.question import MAX_NAME, MAX_PICTURES, HTTPError, Question

MAX_BYTES = 128 * 2**20  # of a request
TOKEN = "X-Episodic-Token"  # a header that the pages of other sites cannot send


class DemoServer(ThreadingHTTPServer):
    """Serves the page and its answers on the loopback address, at `url`.

    **Raises:** `ConfigError` where the port cannot be had.
    """

    def __init__(self, demo: Demo, port: int):
        self.demo = demo
        self.token = secrets.token_urlsafe(32)
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"port {port} cannot be used ({reason}): take another, or port=0 for a free one"
            ) from None
        self.url = f"http://127.0.0.1:{self.server_port}/"
        ends = [f":{self.server_port}", *[""] * (self.server_port == 80)]
        self.hosts = [[host + end] for host in ("127.0.0.1", "localhost") for end in ends]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a reader who went away is no error
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """Answers `GET /` with the page and `POST /answer` with an answer. There is nothing else, and no path is looked up."""

    server: DemoServer
    server_version, sys_version = "episodic", ""
    timeout = 30  # seconds that a read may take

    def do_GET(self) -> None:
        self._serve("/", self._page)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._serve("/answer", self._answer)

    def _serve(self, path: str, make: Any) -> None:
        try:
            # Another site can let its name point to this address; the header has that name.
            if self.headers.get_all("Host") not in self.server.hosts:
                raise HTTPError(HTTPStatus.FORBIDDEN, f"open this page at {self.server.url}")
            if self.path != path:
                raise HTTPError(HTTPStatus.NOT_FOUND, f"there is nothing here but {self.server.url}")
            status, (body, kind, policy) = HTTPStatus.OK, make()
        except HTTPError as refusal:
            return self.send_error(refusal.status, str(refusal))
        except (ValueError, ArithmeticError, OSError, RuntimeError) as error:
            return self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, (str(error).splitlines() or [repr(error)])[0])
        self._reply(status, body, kind, policy)

    def _page(self) -> tuple[bytes, str, str]:
        nonce = secrets.token_urlsafe(16)
        demo = self.server.demo
        settings = {"token": self.server.token, "header": TOKEN, "about": demo.about, "invert": demo.invert}
        settings |= {
            "abstain": demo.abstain or None,
            "maxBytes": MAX_BYTES,
            "maxPictures": MAX_PICTURES,
            "maxName": MAX_NAME,
        }
        page = files("episodic.demo").joinpath("page.html").read_text("utf-8").replace("{{nonce}}", nonce)
        page = page.replace("{{settings}}", json.dumps(settings).replace("<", "\\u003c"))
        allowed = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'"
        return page.encode(), "text/html; charset=utf-8", allowed

    def _answer(self) -> tuple[bytes, str, str]:
        if not secrets.compare_digest(self.headers.get(TOKEN, "").encode(), self.server.token.encode()):
            raise HTTPError(HTTPStatus.FORBIDDEN, "the page is of another start of the demo: reload it")
        answer = self.server.demo.answer(Question.read(self._body()))
        return json.dumps(answer, allow_nan=False).encode(), "application/json", ""

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if not lengths or "Transfer-Encoding" in self.headers:
            raise HTTPError(HTTPStatus.LENGTH_REQUIRED, "a request needs a Content-Length")
        if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise HTTPError(
                HTTPStatus.BAD_REQUEST, f"Content-Length must be a number of bytes, got {', '.join(lengths)}"
            )
        if len(lengths[0]) > 18 or int(lengths[0]) > MAX_BYTES:
            raise HTTPError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES / 2**20:.0f} MiB at once: send fewer pictures"
            )
        try:
            body = self.rfile.read(int(lengths[0]))
        except TimeoutError:
            raise HTTPError(HTTPStatus.REQUEST_TIMEOUT, f"no byte came for {self.timeout} seconds") from None
        if len(body) < int(lengths[0]):
            raise HTTPError(
                HTTPStatus.BAD_REQUEST, f"the request ended after {len(body):,} of {int(lengths[0]):,} bytes"
            )
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error as JSON, with the headers of every answer."""
        body = json.dumps({"error": message or HTTPStatus(code).phrase}).encode()
        self.close_connection = True
        self._reply(HTTPStatus(code), body, "application/json", "")

    def _reply(self, status: HTTPStatus, body: bytes, kind: str, allowed: str) -> None:
        policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; {allowed}"
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy.removesuffix("; "),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing: requests are of no interest on the terminal."""
