"""Answers as text."""

from episodic.predict.answers import text


def test_names_that_are_no_unicode_can_be_printed():
    assert text(b"a\xff.png".decode(errors="surrogateescape")) == "a\ufffd.png"
    assert text("ключ.png") == "ключ.png"
