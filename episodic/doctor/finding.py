"""The result of a check of the data doctor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of a check: its `section` of the report, its `mark` (error, warning or ok) and a sentence.

    `items` are the images, classes or pairs that it is about, the worst first.
    """

    section: str
    mark: str
    text: str
    items: Sequence[dict[str, Any]] = ()


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).splitlines()[0]


def found_or_ok(section: str, mark: str, text: str, otherwise: str, items: Sequence[dict[str, Any]]) -> Finding:
    """The finding `text` with `mark` where there are `items`; where there are none, `otherwise` with the mark ok."""
    return Finding(section, mark, text, items) if items else Finding(section, "ok", otherwise)
