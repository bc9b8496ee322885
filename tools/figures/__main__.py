"""Figures of README and docs, written from kept results.

    python tools/figures            # writes every block and every figure in a sentence
    python tools/figures --check    # names each that differs, and exits with 1

Results are tests/benchmarks/results/*.json and pipelines/figures/published/*.csv. Blocks are in
`blocks`, figures in sentences in `claims`. The package must be installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pages
from blocks import BLOCKS, OTHERS
from claims import CLAIMS, GIVEN
from kept import RESULTS, ROOT, Kept

#: Pages without measurements: references that are written by programs, or say how things are made.
_REFERENCE = ("commands.md", "formats.md", "architecture.md", "contributing.md", "setup.md")


def all_pages() -> list[str]:
    """Return README and the pages of docs/ that may state a measurement."""
    docs = ROOT / "docs"
    found = [
        path
        for path in sorted(docs.rglob("*.md"))
        if path.name not in _REFERENCE and path.parent.name != "api"
    ]
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in found)]


def written(page: str, text: str, kept: Kept) -> tuple[str, list[str], list[str]]:
    """Return a page with its figures, what differed, and what no result can mend."""
    blocks = {name: write(kept) for name, write in BLOCKS.get(page, {}).items()}
    claims = [claim for claim in CLAIMS if claim.page == page]
    text, differed = pages.with_blocks(page, text, blocks)
    text, also = pages.with_claims(text, claims, kept)
    left = pages.strangers(page, text, [*blocks, *OTHERS.get(page, ())])
    left += pages.without_source(page, text, claims, GIVEN.get(page, ()))
    return text, differed + also, left


def main(words: Sequence[str] | None = None) -> int:
    """Write the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a figure differs"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    given = parser.parse_args(words)
    kept, wrong = Kept(given.results), []
    for page in all_pages():
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        new, differed, left = written(page, old, kept)
        if not given.check:
            path.write_text(new, encoding="utf-8")
            # What is still wrong of the page as it now is.
            differed = written(page, new, kept)[1]
        wrong += differed + left
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    if wrong and given.check:
        sys.stderr.write("python tools/figures writes blocks and figures from the results\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
