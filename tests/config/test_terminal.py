import io

import pytest

from episodic.config.terminal import PrintableStream, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("Ünïcode 猫 κ", "Ünïcode 猫 κ"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),  # clears a terminal
        ("a\x9b31mb", "a\\x9b31mb"),  # the same in one character
        ("gnp\u202e.exe", "gnp\\u202e.exe"),  # turns the direction around
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("a\rb\nc\td\x00", "a\\rb\\nc\\td\\x00"),
        ("a\u2028b", "a\\u2028b"),
        ("\udcff.png", "\ufffd.png"),  # a byte that is not Unicode
        ("\ud800", "\\ud800"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # a letter of Persian words
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),  # other blanks
    ],
)
def test_every_character_of_a_name_can_be_seen(name, shown):
    assert printable(name) == shown
    printable(name).encode()  # can be written


def test_a_stream_keeps_lines_and_escapes_the_rest():
    out = io.StringIO()
    stream = PrintableStream(out)
    print("one\ttwo\n\x1b]0;title\x07", file=stream)
    stream.flush()
    assert out.getvalue() == "one\ttwo\n\\x1b]0;title\\x07\n"
