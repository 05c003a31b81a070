"""Text for people. Names of classes and files may come from strangers, with characters that change what a terminal shows."""

from __future__ import annotations

import io
import unicodedata
from typing import Any

# Categories of Unicode: control, format (as the direction of text), halves of characters, line and paragraph separators.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # format characters that scripts and emoji need


def printable(text: object, keep: str = "") -> str:
    """A text in which every character can be seen. Control characters, such as the one that begins a terminal's commands, and those
    that turn the direction of text around are written as in Python; bytes of a file name that are not Unicode are a mark.

    **Arguments:** `keep` (default none): characters that stay, e.g. line ends.

    >>> print(printable("cat\\x1b[2J"), printable("a\\u202eb"), printable("caf\\u00e9"))
    cat\\x1b[2J a\\u202eb café
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c in keep or c in JOINERS else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte of a file name that is not Unicode
        return "\ufffd"
    if unicodedata.category(character) in HIDDEN:
        return character.encode("unicode_escape").decode()
    return character


class PrintableStream:
    """A stream of text that writes to another one what `printable` makes of each text; line ends and tabs stay.

    >>> import io
    >>> out = io.StringIO()
    >>> PrintableStream(out).write("a name: \\x1b[31m\\n")
    17
    >>> out.getvalue()
    'a name: \\\\x1b[31m\\n'
    """

    def __init__(self, stream: io.TextIOBase):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text, keep="\n\t"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
