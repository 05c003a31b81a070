"""`python -m episodic.demo run=<dir> [port=8000] [semi=...]`: a page on this machine to show examples to a model and ask it."""

from __future__ import annotations

import base64
import binascii
import copy
import dataclasses
import io
import json
import secrets
import sys
import threading
import traceback
import warnings
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from omegaconf import DictConfig
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from episodic.assemble.predictor import DEFAULTS, Answerer
from episodic.assemble.saved import model_of
from episodic.config.command import command
from episodic.config.compose import ConfigError, compose_config
from episodic.data.cache import decode_parallel
from episodic.data.image import PictureForm, decode_image, is_inverted
from episodic.predict.__main__ import with_parts

MAX_BYTES = 128 * 2**20  # of a request
MAX_PICTURES = 500
MAX_NAME = 100  # characters of a class name
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # others, such as EPS, may start programs
FALLBACK = "label_propagation"  # the wrapper where none is chosen
TOKEN = "X-Episodic-Token"  # a header that no other site can send


def main(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    port = cfg.port
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 2**16:
        raise ConfigError(f"port must be a number from 0 (one that is free) to 65535, got {port!r}")
    demo = Demo(cfg)
    with DemoServer(demo, port) as server:
        print(f"{demo.about}.\nOpen {server.url} in a browser on this machine. Ctrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            demo.stop()
            print("\nStopped.")


@dataclasses.dataclass(frozen=True)
class Upload:
    """A picture as it came: its file's name, its bytes in base64."""

    name: str
    data: str


@dataclasses.dataclass(frozen=True)
class Question:
    """What the page asks. `places`: the class of each picture of the support, and which one of that class it is."""

    names: list[str]
    support: list[Upload]
    places: list[tuple[int, int]]
    unlabeled: list[Upload]
    queries: list[Upload]
    invert: bool
    abstain: Any

    @staticmethod
    def read(body: bytes) -> Question:
        """**Raises:** `ValueError` that says what is missing, doubled or too much."""
        try:
            asked = json.loads(body)
            names = [given["name"].strip() for given in asked["classes"]]
            shown = [[Upload(str(p["name"]), str(p["data"])) for p in given["pictures"]] for given in asked["classes"]]
            others = [[Upload(str(p["name"]), str(p["data"])) for p in asked[key]] for key in ("unlabeled", "queries")]
            invert, abstain = bool(asked["invert"]), asked["abstain"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError("the request is not what the page sends: reload the page") from None
        total = sum(map(len, [*shown, *others]))
        if total > MAX_PICTURES:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_PICTURES} pictures at once, got {total:,}"
            )
        _check_classes(names, shown)
        if not others[1]:
            raise ValueError("there is no query: add a picture to name")
        places = [(c, i) for c, of_class in enumerate(shown) for i in range(len(of_class))]
        return Question(names, [p for of_class in shown for p in of_class], places, *others, invert, abstain)


def _check_classes(names: list[str], shown: list[list[Upload]]) -> None:
    if len(names) < 2:
        raise ValueError(f"at least two classes are needed, got {len(names)}")
    for position, (name, pictures) in enumerate(zip(names, shown, strict=True), start=1):
        if not name:
            raise ValueError(f"class {position} has no name: give it one")
        if len(name) > MAX_NAME:
            raise ValueError(f"the name of class {position} has {len(name):,} characters, at most {MAX_NAME} are shown")
        if name in names[: position - 1]:
            raise ValueError(f"two classes are named {name!r}: each needs a name of its own")
        if not pictures:
            raise ValueError(f"class {name!r} has no picture: add one, or remove the class")


class Refusal(Exception):
    """A request that is not answered, by an HTTP status and a line for people."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class Demo:
    """Answers questions by the model of a configuration, one at a time.

    **Attributes:** `form`, of the pictures; `wrapper`, what uses unlabeled pictures; `about`, the model in words; `invert` and
    `abstain`, what the page begins with.

    **Raises:** what `Answerer` raises for a model that cannot be used; `ConfigError` for one of features.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg = cfg
        self._lock, self._stopping = threading.Lock(), False
        self._semi = None
        classifier = self._classifier()
        self.invert, self.abstain = (classifier.setting(name) for name in ("invert", "abstain"))
        learner, _, form, config = model_of(classifier)
        if form is None:
            raise ConfigError(f"model={cfg.model} compares features, not pictures")
        self.form: PictureForm = form
        self._semi = None if learner.uses_unlabeled else FALLBACK
        self.wrapper = self._semi or "+".join(config["semi"])
        compares, embeds = (config[part]["_target_"].split(".")[-1] for part in ("learner", "backbone"))
        self.about = (
            f"{cfg.run or cfg.model or 'pretrained'}: {compares} on {embeds}, "
            f"unlabeled pictures by {self.wrapper}; {form.size} × {form.size} {'grey' if form.channels == 1 else 'colour'}"
        )

    def answer(self, question: Question) -> dict[str, Any]:
        """What the page shows, see `_answer`; one question at a time, as a model fills the processor.

        **Raises:** `ValueError` for pictures and settings that cannot be used.
        """
        with self._lock, warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
            if self._stopping:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the demo is stopping")
            found = self._answer(question)
        notes = dict.fromkeys(str(warning.message) for warning in heard)  # each once
        return found | {"notes": [*found["notes"], *notes]}

    def stop(self) -> None:
        """Let the answer in progress end, and begin no other: Python must not end while a thread computes one."""
        self._stopping = True
        self._lock.acquire()

    def _answer(self, question: Question) -> dict[str, Any]:
        """`queries` and `unlabeled`, a record for each; `failed`, a line for each of the support; places are the question's."""
        support, unlabeled, queries = (
            Pictures.decode(uploads, self.form) for uploads in (question.support, question.unlabeled, question.queries)
        )
        places = [question.places[i] for i in support.kept]
        shown = {c for c, _ in places}
        failed = []
        for i, reason in sorted(support.failed.items()):
            c, file = question.places[i][0], question.support[i].name
            if c not in shown:
                raise ValueError(f"no picture of class {question.names[c]!r} can be read: {file}: {reason}")
            failed.append(f"{question.names[c]}: {file}: {reason}")
        # Numbers in place of names keep the order of the page; as text they are never taken for a regression.
        labels = [f"{c:03}" for c, _ in places]
        settings = {"invert": question.invert, "abstain": question.abstain or 0}
        alone = self._classifier(**settings).fit(support.pixels, labels)
        answers = [{"plain": said, "helped": None, **near} for said, near in answered(alone, queries.pixels, places)]
        taken = None
        if unlabeled.kept:
            helped = self._classifier(self._semi, **settings).fit(support.pixels, labels, unlabeled.pixels)
            for answer, (said, _) in zip(answers, answered(helped, queries.pixels, places), strict=True):
                answer["helped"] = said
            taken = helped.unlabeled_shares()
        shares = [{"shares": row} for row in (taken.tolist() if taken is not None else [None] * len(unlabeled.kept))]
        return {
            "names": question.names,
            "queries": queries.among_all(answers),
            "unlabeled": unlabeled.among_all(shares),
            "wrapper": self.wrapper if unlabeled.kept else None,
            "failed": failed,
            "notes": polarity(self.form, support.pixels, question.invert),
        }

    def _classifier(self, semi: str | None = None, **settings: Any) -> Answerer:
        """Not fitted; with the wrapper `semi` in place of the model's own."""
        settings = {name: self.cfg[name] for name in ("device", *DEFAULTS)} | settings
        if self.cfg.model is not None:
            return Answerer(self.cfg.model, semi=semi, **settings)
        cfg = copy.deepcopy(self.cfg)
        if semi is not None:
            cfg.semi = compose_config("train", [f"semi={semi}"]).semi
        return Answerer(cfg, **settings)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures that could be read, uint8 `[n, C, H, W]`, their places among all, and why the others could not."""

    pixels: UInt8[Tensor, "picture channels height width"]
    kept: list[int]
    failed: dict[int, str]

    @staticmethod
    def decode(uploads: list[Upload], form: PictureForm) -> Pictures:
        out = np.empty((len(uploads), form.channels, form.size, form.size), dtype=np.uint8)
        failed = decode_parallel(uploads, lambda upload: _pixels(upload, form), out, title="pictures")
        kept = [i for i in range(len(uploads)) if i not in failed]
        return Pictures(torch.from_numpy(out[kept]), kept, failed)

    def among_all(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """`found` of those kept, in the places of all, with an `error` for the others."""
        by_place = dict(zip(self.kept, found, strict=True)) | {i: {"error": why} for i, why in self.failed.items()}
        return [by_place[i] for i in sorted(by_place)]


def _pixels(upload: Upload, form: PictureForm) -> np.ndarray:
    try:
        data = base64.b64decode(upload.data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it did not arrive whole") from None
    if not data:
        raise ValueError("the file is empty")
    try:
        Image.open(io.BytesIO(data), formats=FORMATS).close()
    except UnidentifiedImageError:
        raise ValueError(f"it is not a picture of a kind that is read here ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"it has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels") from None
    return decode_image(io.BytesIO(data), channels=form.channels, size=form.size, resize=form.resize)


def answered(
    classifier: Answerer, pixels: Tensor, places: list[tuple[int, int]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """For each query what is said of it, and the place and the similarity of the nearest picture of the support."""
    if not len(pixels):
        return []
    found = zip(classifier.answers(pixels), classifier.predict_proba(pixels).tolist(), strict=True)
    return [
        (
            {"label": int(a.label), "probability": a.probability, "abstain": a.abstain, "probabilities": p},
            {"nearest": None if a.nearest is None else places[a.nearest], "similarity": a.similarity},
        )
        for a, p in found
    ]


def polarity(form: PictureForm, pixels: Tensor, invert: bool) -> list[str]:
    """A note where grey pictures are dark on bright and the model knows bright on dark, or the other way round."""
    seen = pixels.float().mean().item() / 255
    seen = 1 - seen if invert else seen
    if not is_inverted(form, seen):
        return []
    return [
        f"The examples' mean grey is {seen:.2f}, that of the model's own pictures {form.mean[0]:.2f}: "
        f"{'do not turn' if invert else 'turn'} grey values around (see Settings)."
    ]


class DemoServer(ThreadingHTTPServer):
    """The page and its answers on the loopback address; `url` says where.

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
        if not isinstance(sys.exception(), OSError):  # someone who went away is no error of ours
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """`GET /` is the page, `POST /answer` its answers; there is nothing else, and no path is looked up."""

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
            if self.headers.get_all("Host") not in self.server.hosts:  # another name that was led to this address
                raise Refusal(HTTPStatus.FORBIDDEN, f"open this page at {self.server.url}")
            if self.path != path:
                raise Refusal(HTTPStatus.NOT_FOUND, f"there is nothing here but {self.server.url}")
            status, (body, kind, policy) = HTTPStatus.OK, make()
        except Refusal as refusal:
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
        page = files("episodic.pages").joinpath("demo.html").read_text("utf-8").replace("{{nonce}}", nonce)
        page = page.replace("{{settings}}", json.dumps(settings).replace("<", "\\u003c"))
        allowed = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'"
        return page.encode(), "text/html; charset=utf-8", allowed

    def _answer(self) -> tuple[bytes, str, str]:
        if not secrets.compare_digest(self.headers.get(TOKEN, "").encode(), self.server.token.encode()):
            raise Refusal(HTTPStatus.FORBIDDEN, "the page is of another start of the demo: reload it")
        answer = self.server.demo.answer(Question.read(self._body()))
        return json.dumps(answer, allow_nan=False).encode(), "application/json", ""

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if not lengths or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "a request needs a Content-Length")
        if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"Content-Length must be a number of bytes, got {', '.join(lengths)}")
        if len(lengths[0]) > 18 or int(lengths[0]) > MAX_BYTES:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES / 2**20:.0f} MiB at once: send fewer pictures"
            )
        try:
            body = self.rfile.read(int(lengths[0]))
        except TimeoutError:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, f"no byte came for {self.timeout} seconds") from None
        if len(body) < int(lengths[0]):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the request ended after {len(body):,} of {int(lengths[0]):,} bytes")
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """As JSON, with the headers of every answer."""
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
        """The terminal is for what matters."""


if __name__ == "__main__":
    command("demo", main, with_parts)
