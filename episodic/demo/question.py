"""The question that the page sends: classes with their examples, unlabeled pictures, and queries."""

from __future__ import annotations

import dataclasses
import json
from http import HTTPStatus
from typing import Any

MAX_PICTURES = 500
MAX_NAME = 100  # characters of a class name


@dataclasses.dataclass(frozen=True)
class Upload:
    """A picture as it was sent: the name of its file, and its bytes in base64."""

    name: str
    data: str


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with valid names and numbers. `places` has the class of each example, and its number in that class."""

    names: list[str]
    support: list[Upload]
    places: list[tuple[int, int]]
    unlabeled: list[Upload]
    queries: list[Upload]
    invert: bool
    abstain: Any

    @staticmethod
    def read(body: bytes) -> Question:
        """Read and check the body of a request.

        **Raises:** `ValueError` that says what is missing or double; `HTTPError` for too many pictures.
        """
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
            raise HTTPError(
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


class HTTPError(Exception):
    """A request that is not answered. It has an HTTP status and a line for the user."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status
