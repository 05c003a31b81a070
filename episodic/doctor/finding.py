"""What one check has to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check has to say; `items` are the images, classes or pairs behind it, the worst first."""

    section: str
    mark: str
    text: str
    items: Sequence[dict[str, Any]] = ()


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def found_or_ok(section: str, mark: str, text: str, otherwise: str, items: Sequence[dict[str, Any]]) -> Finding:
    return Finding(section, mark, text, items) if items else Finding(section, "ok", otherwise)
