"""Write the tables of training options and presets in docs/training.md from their declarations.

Each table goes between two marker comments, e.g. ``<!-- options: begin -->``.
"""

from __future__ import annotations

from pathlib import Path

from boxnn_numba.training.options import GROUPS, KINDS, OPTIONS, PRESETS, preset_value

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"


def options_table() -> str:
    """Return every training option by group, as Markdown."""
    lines = ["| option | may be | default | |", "|---|---|---|---|"]
    for group in GROUPS:
        lines.append(f"| **{group}** | | | |")
        lines += [
            f"| `{name}` | {item.limits} | {item.default} | {f'{item.text} {item.more}'.strip()} |"
            for name, item in OPTIONS.items()
            if item.group == group
        ]
    return "\n".join(lines)


def presets_table() -> str:
    """Return what each preset sets, for each kind of samples, as Markdown."""
    columns = [(preset, kind) for kind in (*KINDS[1:], KINDS[0]) for preset in PRESETS]
    titles = [f"`{preset}`, {kind}" for preset, kind in columns]
    lines = [f"| option | {' | '.join(titles)} |", "|---" * (1 + len(columns)) + "|"]
    for name in OPTIONS:
        values = [preset_value(name, preset, kind) for preset, kind in columns]
        if len(set(values)) > 1:
            lines.append(f"| `{name}` | {' | '.join(values)} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """Return a page with the tables between their markers."""
    for name, table in (("options", options_table()), ("presets", presets_table())):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"the page has no {begin} ... {end}; put both where the table belongs")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
