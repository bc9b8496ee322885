"""A table with columns of every kind, as text."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence

import numpy as np

HEADER = ("who", "amount", "city", "paid", "day", "label")


def mixed_rows(n: int, seed: int) -> list[dict[str, str]]:
    """Return rows of two classes that differ in every column; some cells are empty."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        fraud = bool(rng.random() < 0.3)
        day = datetime.date(2024, 1, 1) + datetime.timedelta(int(rng.integers(60) + 40 * fraud))
        city = rng.choice(["Bonn", "Kiel", "Ulm"], p=[0.7, 0.2, 0.1] if fraud else [0.1, 0.2, 0.7])
        rows.append(
            {
                "who": f"r{number}",
                "amount": "" if rng.random() < 0.1 else f"{rng.normal(50 + 60 * fraud, 20):.2f}",
                "city": "" if rng.random() < 0.1 else str(city),
                "paid": str(bool(rng.random() < (0.2 if fraud else 0.8))),
                "day": day.isoformat(),
                "label": "fraud" if fraud else "fine",
            }
        )
    return rows


def as_csv(rows: Sequence[dict[str, str]], header: Sequence[str] = HEADER) -> str:
    """Return some columns of rows as a CSV table."""
    text = io.StringIO()
    table = csv.DictWriter(text, header, extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
