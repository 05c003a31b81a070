"""HTML of a report: text and attributes cannot become tags."""

from episodic.report.markup import tag


def test_text_and_attributes_are_escaped():
    assert tag("p", '<&">', title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">&lt;&amp;&quot;&gt;</p>'
