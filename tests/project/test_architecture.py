"""The page on architecture names files and what is in them: all of it is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = ("boxnn_numba", "cli", "data", "pipelines", "tests")


def named_files() -> list[str]:
    return sorted(set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.]*)`", PAGE)))


def named_parts() -> list[tuple[str, str]]:
    """Pairs such as (`certified_radius`, `boxnn_numba/certificates/margin.py`)."""
    pattern = r"((?:`[A-Za-z_][\w.]*`(?: and )?)+) (?:in|of) `([\w/]+\.py)`"
    return [
        (name, file)
        for names, file in re.findall(pattern, PAGE)
        for name in re.findall(r"`([\w.]+)`", names)
    ]


@pytest.mark.parametrize("name", named_files())
def test_files_are_there(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize(("name", "file"), named_parts())
def test_what_is_in_them_is_there(name: str, file: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    last = name.rpartition(".")[2]
    assert re.search(rf"^\s*(?:def|class) {last}\b|^{last}\b", source, re.MULTILINE)


def test_the_page_names_enough() -> None:
    assert len(named_files()) > 40 and len(named_parts()) > 10


def test_the_drawing_has_every_room() -> None:
    drawing = PAGE[PAGE.index("## The house") : PAGE.index("## Where is")]
    for folder in FOLDERS[:4]:
        for room in (ROOT / folder).iterdir():
            if (room / "__init__.py").is_file() and room.name != "html":
                assert f"{room.name}/" in drawing, room
    for file in (ROOT / "pipelines").glob("[a-z]*.py"):
        assert file.stem in drawing, file
