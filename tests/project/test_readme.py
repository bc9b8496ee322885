"""The README stays a short tour; tests/test_docs.py runs its blocks."""

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
    assert len(TEXT.splitlines()) <= 200
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT)
    assert len(links) > 10
    for link in links:
        assert (README.parent / link).is_file(), link
