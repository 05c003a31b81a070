"""HTML of a report: text and attributes cannot become tags."""

from episodic.report.markup import escaped, tag


def test_text_and_attributes_are_escaped():
    assert tag("p", '<&">', title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">&lt;&amp;&quot;&gt;</p>'


def test_characters_that_turn_text_around_are_shown_as_what_they_are():
    assert tag("td", "gnp\u202e.exe", title="a\x1b[31m") == '<td title="a\\x1b[31m">gnp\\u202e.exe</td>'
    assert escaped("two\nlines") == "two\nlines"
