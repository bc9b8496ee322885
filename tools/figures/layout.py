"""Layout: Markdown tables and the words of figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kept import Curve


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; an empty cell stays empty."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def cells(curve: Curve, radii: Iterable[int]) -> list[str]:
    """Return the median and the certified accuracies of a row."""
    return [median(curve.median), *(f"{curve.at(radius):.1f}" for radius in radii)]


def median(radius: int | None) -> str:
    """Return a median radius, "-" where fewer than half of the rows are right."""
    return "" if radius is None else "-" if radius < 0 else str(radius)


def method(name: str) -> str:
    """Return the name of a published method: ``"RA_40^B"`` -> ``"RA<sup>B</sup>, k = 40"``."""
    base, _, rest = name.partition("_")
    setting, _, variant = rest.partition("^")
    if not rest:
        base, _, variant = name.partition("^")
    letter = "k" if base == "RA" else "T"
    raised = f"<sup>{variant}</sup>" if variant else ""
    return f"{base}{raised}{f', {letter} = {setting}' if setting else ''}"


def rerun_name(row: Curve) -> str:
    """Return the name of a published method as it was run here, with its network."""
    options = row.about["options"]
    if "network" not in options:
        return method(row.method)
    epochs = f", {options['epochs']} epochs" if "epochs" in options else ""
    return f"{method(row.method)} ({options['network']} network{epochs})"


def column_method(key: str) -> str:
    """Return the name of a method of `tests/benchmarks/tables.py`."""
    ours = {"box": "Box-NN", "box-radii": "Box-NN, `radii=(1, 2, 4)`"}
    return ours.get(key) or method(key)


def count(number: float | None) -> str:
    """Return a large number with two digits, such as ``2.4 million``; empty for None."""
    if number is None:
        return ""
    for size, word in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= size:
            value = float(f"{number / size:.2g}")
            return f"{value:g}{word}"
    return f"{number:g}"
