"""The README stays a short tour; tests/project/test_docs.py runs its blocks."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_the_two_commands_stand_alone_on_their_lines() -> None:
    """.ci/run reads them from there."""
    lines = [line.split("#")[0].strip() for line in TEXT.splitlines()]
    assert "pip install . && boxnn demo" in lines
    assert "pip install -e '.[test]' && pytest" in lines


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    assert len(TEXT.splitlines()) <= 120
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT)
    assert len(links) > 10
    for link in links:
        assert (README.parent / link).exists(), link


def test_parts_of_pages_that_it_names_are_there() -> None:
    """The site's build checks links between pages, but not those of the README."""
    found = re.findall(r"\]\(([^)#]+\.md)#([^)]+)\)", TEXT)
    assert len(found) >= 5  # an answer to each question
    for page, anchor in found:
        text = (README.parent / page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.M)
        slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
        assert anchor in slugs, f"{page} has no heading for #{anchor}"
