"""Write the comparison of methods in docs/comparison.md from what `boxnn reproduce` has measured.

The results are tests/benchmarks/results/reproduce-*.json, copies of table2.json, table3.json
and cost.json of a reproduction. The table goes between two marker comments.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "comparison.md"
RESULTS = ROOT / "tests" / "benchmarks" / "results"
TABLES = ("table2", "table3")
BEGIN, END = "<!-- comparison: begin -->", "<!-- comparison: end -->"
_RADII = range(0, 41, 4)
_TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def comparison_table(results: Path = RESULTS) -> str:
    """Return the tables as Markdown: our rows in bold, published ones with the same setting.

    Parameters
    ----------
    results
        Folder with ``reproduce-table2.json`` and so on; those that are missing are left out.
    """
    parts = []
    for table in TABLES:
        path = results / f"reproduce-{table}.json"
        if path.exists():
            parts.append(_table(json.loads(path.read_text(encoding="utf-8"))))
    cost = results / "reproduce-cost.json"
    if cost.exists():
        parts.append(_cost(json.loads(cost.read_text(encoding="utf-8"))["rows"]))
    return "\n\n".join(parts)


def with_table(text: str, table: str) -> str:
    """Return a page with the table between its markers.

    Raises
    ------
    SystemExit
        It does not have the two markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no {BEGIN} ... {END}; put both where the table belongs")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _table(result: dict[str, Any]) -> str:
    rows = result["rows"]
    dataset = _TITLES[rows[0]["dataset"]]
    head = f"| {dataset}: certified accuracy (%) at r = | images | median | "
    lines = [
        head + " | ".join(map(str, _RADII)) + " |",
        "|---" * (3 + len(_RADII)) + "|",
    ]
    lines += [_line(row) for row in rows if row["source"] == "ours" or _is_peer(row, rows)]
    return "\n".join([*lines, "", f"(`{result['command']}`)"])


def _is_peer(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether a published row has one of ours beside it, or is the best of its family at r = 8."""
    if any(other["source"] == "ours" and other["method"] == row["method"] for other in rows):
        return True
    family = [
        other for other in rows if other["source"] == "published" and _family(other) == _family(row)
    ]
    return max(family, key=_at_eight) is row


def _family(row: dict[str, Any]) -> tuple[str, str]:
    base, _, rest = row["method"].partition("_")
    return base, rest.partition("^")[2]


def _at_eight(row: dict[str, Any]) -> float:
    return float(row["percents"][row["radii"].index(8)])


def _line(row: dict[str, Any]) -> str:
    by_radius = dict(zip(row["radii"], row["percents"], strict=True))
    values = [f"{by_radius.get(radius, 0.0):.1f}" for radius in _RADII]
    name = _name(row["method"])
    if row["source"] == "ours":
        count = " (paper's count)" if row["convention"] == "paper" else ""
        name = f"**{name}**{count}"
    else:
        name += ", published"
    median = "" if row["median"] is None else str(row["median"])
    images = "" if row["images"] is None else f"{row['images']:,}"
    return "| " + " | ".join([name, images, median, *values]) + " |"


def _name(method: str) -> str:
    base, _, rest = method.partition("_")
    setting, _, variant = rest.partition("^")
    if not setting:
        return f"{method} `paper`" if method == "Box-NN" else method
    size = f"k = {setting}" if base == "RA" else f"T = {setting}"
    return f"{base}{f'<sup>{variant}</sup>' if variant else ''}, {size}"


def _cost(rows: list[dict[str, Any]]) -> str:
    lines = ["| to certify one image | seconds | multiply-adds |", "|---|---|---|"]
    lines += [
        f"| {_name(row['method']) if '_' in row['method'] else row['method']} "
        f"| {row['seconds_per_image'] or float('nan'):.2g} | {row['multiply_adds_per_image']:.2g} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Rewrite docs/comparison.md."""
    text = with_table(PAGE.read_text(encoding="utf-8"), comparison_table())
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
