"""Figures of README and docs: written from kept results, and named where they differ."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import tables
from support.docs_blocks import ROOT

TOOL = ROOT / "tools" / "figures"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the tool, which stand for themselves."""
    monkeypatch.syspath_prepend(TOOL)
    import blocks
    import claims
    import kept
    import pages

    return SimpleNamespace(blocks=blocks, claims=claims, kept=kept, pages=pages)


def check(tool: SimpleNamespace, page: str, kept: object) -> list[str]:
    """What `--check` says of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    written = {name: write(kept) for name, write in tool.blocks.BLOCKS.get(page, {}).items()}
    claims = [claim for claim in tool.claims.CLAIMS if claim.page == page]
    return [
        *tool.pages.with_blocks(page, text, written)[1],
        *tool.pages.with_claims(text, claims, kept)[1],
    ]


def test_every_figure_has_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", ["figures", "--check"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().err


def test_a_changed_result_shows_on_every_page_that_quotes_it(
    figures: SimpleNamespace, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(figures.kept.RESULTS, results)
    path = results / "presets.json"
    found = json.loads(path.read_text())
    case = found["cases"]["mnist-graded-0"]
    case["certified"][0] += 20  # so much shows in the first decimal
    case["attack"]["one_more"] -= 30
    path.write_text(json.dumps(found))
    kept = figures.kept.Kept(results)
    for page, block in (
        ("README.md", "figures"),
        ("docs/training.md", "reach"),
        ("docs/leaderboard.md", "mnist"),
    ):
        wrong = check(figures, page, kept)
        assert any(line.startswith(f"{page}: block {block} is not what") for line in wrong)
        assert not any("\n" in line for line in wrong)
    assert any(
        "fall to exactly one pixel" in line and "should say" in line
        for line in check(figures, "README.md", kept)
    )


def test_figures_of_a_sentence_are_replaced_across_lines(figures: SimpleNamespace) -> None:
    claim = figures.pages.Claim(
        "p.md", "of {} images, {}% fall", (lambda _: "1,000", lambda _: "9.5")
    )
    text, wrong = figures.pages.with_claims("So of 10,000\nimages, 97.4% fall.\n", [claim], None)
    assert text == "So of 1,000\nimages, 9.5% fall.\n"
    assert wrong == ["p.md: 'of 10,000 images, 97.4% fall' should say 1,000, 9.5"]
    assert figures.pages.with_claims("gone", [claim], None)[1] == [
        "p.md: 0 times, not once: 'of {} images, {}% fall'"
    ]


def test_a_figure_without_a_result_is_named(figures: SimpleNamespace) -> None:
    text = (
        "It is 3.5 s here.\n\n```\n4.5 s\n```\n<!-- t: begin -->\n| 5.5% |\n<!-- t: end -->\n"
        "Of 12 s, `6.5`, 50% of two.\n"
    )
    claim = figures.pages.Claim("p.md", "Of {} s", (lambda _: "12",))
    wrong = figures.pages.without_source("p.md", text, [claim], ["50% of two"])
    assert len(wrong) == 1 and wrong[0].startswith("p.md:1: no result is named for '3.5 s'")
    assert "take it from GIVEN" in figures.pages.without_source("p.md", "", [], ["50% of two"])[0]
    assert figures.pages.strangers("p.md", text, []) == ["p.md: nothing writes the block t"]
    assert figures.pages.with_blocks("p.md", text, {"u": ""})[1][0].startswith(
        "p.md: no <!-- u: begin -->"
    )


def test_curves_of_tables_are_those_of_the_benchmark(figures: SimpleNamespace) -> None:
    found = json.loads((figures.kept.RESULTS / "tables.json").read_text())["tables"]
    for name, methods in figures.kept.Kept().tables.items():
        common = set.intersection(*map(set, found[name].values()))
        for method, entry in methods.items():
            expected = tables.summary({fold: found[name][method][fold] for fold in common})
            assert entry["folds"] == expected["folds"]
            np.testing.assert_allclose(entry["curve"], expected["curve"])
