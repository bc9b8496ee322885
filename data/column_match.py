"""Columns of data matched to those of a model: by name, in its order, with its categories."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from boxnn_numba.columns import Columns, nearest
from boxnn_numba.errors import DataError


def column_match(
    have: Columns, want: Columns, data: str, model: str
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from raw values (rows, n) of `have` to raw values of `want`.

    Columns are matched by name. Categories are matched as by `Column.places`; one that the
    model does not know becomes its "other". `data` and `model` are what messages call the two.

    Raises
    ------
    DataError
        A column is missing, unknown, or of another kind. What a cell was before it was taken for
        another kind is not known any more: 01 as a number is 1, and no category 01.
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
    for place, new in zip(order, want, strict=True):
        if have[place].kind != new.kind:
            raise DataError(
                f"column {new.name!r} is a {have[place].kind} in {data} and a {new.kind} in "
                f"{model}; ingest it anew with `boxnn data ingest FILE --like MODEL`"
            )
    # The last is what the data do not tell apart.
    places = {
        at: np.array([*new.places(have[place].categories), len(new.categories)])
        for at, (place, new) in enumerate(zip(order, want, strict=True))
        if new.is_listed
    }

    def match(x: np.ndarray) -> np.ndarray:
        out = x[:, order]
        for at, table in places.items():
            known = ~np.isnan(out[:, at])
            out[known, at] = table[out[known, at].astype(np.intp)]
        return out

    return match
