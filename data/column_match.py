"""Columns of data as those of a model: by name, in its order, with its categories."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from boxnn_numba.columns import Column, Columns, nearest
from boxnn_numba.errors import DataError, InputError


def column_match(
    have: Columns, want: Columns, data: str, model: str
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes raw values of `want` out of raw values (rows, n) of `have`.

    Columns are matched by name. A category is matched by its text; one that the model does not
    know becomes its "other". `data` and `model` are what messages call the two.

    Raises
    ------
    DataError
        A column is missing or unknown. What is returned raises it for a cell that is not of the
        model's kind.
    """
    for name in want.names:
        if name not in have.names:
            raise DataError(
                f"{data} has no column {name!r} of {model} ({nearest(name, have.names)}); ingest "
                "data with the columns of the model"
            )
    for name in have.names:
        if name not in want.names:
            raise DataError(
                f"{data} has a column {name!r}, which {model} does not know "
                f"({nearest(name, want.names)}); ingest data with the columns of the model"
            )
    order = [have.position(name) for name in want.names]
    pairs = [(have[place], column) for place, column in zip(order, want, strict=True)]

    def match(x: np.ndarray) -> np.ndarray:
        out = x[:, order]
        for place, (old, new) in enumerate(pairs):
            if (old.kind, old.categories) != (new.kind, new.categories):
                out[:, place] = _translated(out[:, place], old, new, data, model)
        return out

    return match


def _translated(values: np.ndarray, old: Column, new: Column, data: str, model: str) -> np.ndarray:
    """Return raw values (rows,) of a column as those of another of the same name."""
    distinct, index = np.unique(values, return_inverse=True)
    found = np.full(len(distinct), np.nan)
    known = ~np.isnan(distinct)
    if old.is_listed and new.is_listed:
        # "Other" is no text of a category, though a category may be called so.
        other = known & (distinct >= len(old.categories))
        found[other] = len(new.categories)
        known &= ~other
    texts = [old.text(value) for value in distinct[known]]
    if texts:
        try:
            found[known] = Columns([new]).values({new.name: texts}, missing=())[:, 0]
        except InputError as error:
            raise DataError(
                f"column {new.name!r} is a {old.kind} in {data} and a {new.kind} in {model}; mend "
                "its cells, and run `boxnn data ingest FILE --like MODEL`"
            ) from error
    return found.astype(values.dtype)[index.reshape(-1)]
