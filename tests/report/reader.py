"""A page as tests read it: its tags and its text."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, *names):
        return [attrs for name, attrs in self.tags if name in names]
