"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from episodic.data.folders import flush


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file beside `path` for writing. When all is written and on the disk, it takes the place of `path`. Where writing
    fails, or the process dies, what was at `path` before stays.

    **Arguments:** `mode` (default `"w"`): as for `open`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "lines.txt"
    ...     with atomic_file(path) as file:
    ...         file.write("a line")
    ...         path.exists()
    ...     path.read_text()
    6
    False
    'a line'
    """
    building = path.with_name(f".{path.name}-building")
    building.unlink(missing_ok=True)  # a process that was killed left it, or a stranger, as a link to another file
    try:
        with open(building, mode.replace("w", "x")) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(building, path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise
    flush(path.parent)


def file_name(text: str, longest: int = 120) -> str:
    """The text as a name of a file. Characters that such a name cannot have become dashes; then, and where the text is too long, a
    few digits tell it from others.

    >>> file_name("learner=matching,seed=1"), file_name("init_from=runs/a")
    ('learner=matching,seed=1', 'init_from=runs-a-fc4a39')
    """
    plain = re.sub(r"[^\w=,.+@ -]", "-", text)
    if plain == text and len(text) <= longest:
        return text
    return f"{plain[:longest]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whole or not at all.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "metrics.json", "{}")
    ...     (Path(folder) / "metrics.json").read_text()
    '{}'
    """
    with atomic_file(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)
