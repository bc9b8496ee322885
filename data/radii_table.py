"""Radii tables: predictions and radii of another method, a CSV line for each row of a split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from boxnn_numba.data.paths import Name, location, reachable
from boxnn_numba.errors import CertificateFileError
from boxnn_numba.text import cell

_HEAD = ("prediction", "radius")


def read_radii(path: Name, classes: Sequence[Any], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a table with the header ``prediction,radius``; other columns are left alone.

    Parameters
    ----------
    path
        A CSV file with a line for each row of a split, in its order.
    classes
        K labels, as the predictions name them.
    rows
        How many rows the split has.

    Returns
    -------
    prediction, radius : (rows,) int32
        Class indices, -1 where the cell is empty (the method abstains), and radii.

    Raises
    ------
    CertificateFileError
        The file cannot be read, has another number of rows, names no class, or a radius is not a
        whole number of at least 0.
    """
    lines = _lines(path)
    if len(lines) != rows:
        raise CertificateFileError(
            f"{path} has {len(lines)} rows and the split {rows}; pass one for each, in its order"
        )
    index = {name: place for place, label in enumerate(classes) for name in _names(label)}
    index[""] = -1
    prediction = [index.get((line["prediction"] or "").strip(), -2) for line in lines]
    if -2 in prediction:
        row = prediction.index(-2)
        raise CertificateFileError(
            f"{path} predicts {lines[row]['prediction']!r} in row {row}, which is none of the "
            f"classes {_some(classes)}; correct it, or leave it empty to abstain"
        )
    radius = [_whole(line["radius"]) for line in lines]
    if -1 in radius:
        row = radius.index(-1)
        raise CertificateFileError(
            f"{path} has radius {lines[row]['radius']!r} in row {row}; it must be a whole number "
            "of at least 0"
        )
    return np.array(prediction, np.int32), np.array(radius, np.int32)


def _lines(path: Name) -> list[dict[str, str | None]]:
    """Return the lines of a table with the columns of `_HEAD`, by the names in its header."""
    with reachable(path, CertificateFileError):
        try:
            text = location(path).read_text(encoding="utf-8-sig")
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            lines: list[dict[str, str | None]] = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise CertificateFileError(f"{path} is not a CSV table: {error}; repair it") from error
    for name in _HEAD:
        if not lines or name not in lines[0]:
            raise CertificateFileError(
                f"{path} has no column {name}; it needs a header with {' and '.join(_HEAD)}"
            )
        if list(reader.fieldnames or ()).count(name) > 1:
            raise CertificateFileError(f"{path} has 2 columns named {name}; leave one out")
    longer = next((row for row, line in enumerate(lines) if None in line), None)
    if longer is not None:
        raise CertificateFileError(
            f"{path} has more cells in row {longer} than in its header; quote those with commas"
        )
    return lines


def _names(label: Any) -> Iterable[str]:
    """Return how a class may be written: other programs write whole numbers as 3.0, too."""
    return (label, cell(label)) if isinstance(label, str) else (str(label), str(float(label)))


def _whole(text: str | None) -> int:
    """Return a whole number of at least 0, or -1."""
    try:
        value = float(text or "")
    except ValueError:
        return -1
    return int(value) if value >= 0 and value.is_integer() and value < 2**31 else -1


def _some(classes: Sequence[Any]) -> str:
    return ", ".join(map(str, classes[:6])) + (", ..." if len(classes) > 6 else "")
