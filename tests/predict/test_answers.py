"""Answers as records and as text."""

from episodic.predict.answers import as_unicode


def test_names_that_are_no_unicode_can_be_printed():
    assert as_unicode(b"a\xff.png".decode(errors="surrogateescape")) == "a\ufffd.png"
    assert as_unicode("ключ.png") == "ключ.png"
