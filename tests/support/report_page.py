"""A page of the report, and its elements, for the tests of the report."""

from __future__ import annotations

from html.parser import HTMLParser

from boxnn_numba.pipelines.report import page


def make_page(runs, samples=None, title="A title", **options):
    return page.render(runs, samples or [[] for _ in runs], title, **options)


VOID = {"meta", "input", "img", "br", "path", "circle", "rect"}


class Checker(HTMLParser):
    """Collects elements, and checks that every one opened is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
