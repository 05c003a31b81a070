"""Answers as records and as text."""

from episodic.predict.answers import printable


def test_names_that_are_no_unicode_can_be_printed():
    assert printable(b"a\xff.png".decode(errors="surrogateescape")) == "a\ufffd.png"
    assert printable("ключ.png") == "ключ.png"
