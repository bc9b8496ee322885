"""Columns of the data passed to a classifier's fit: frames, and arrays with categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from boxnn_numba.columns import MOST_CATEGORIES, Column, Columns, is_table, named_columns
from boxnn_numba.errors import OptionError

FROM_DTYPE = "from_dtype"


def has_texts(X: Any) -> bool:
    """Return whether something is a matrix some cells of which are texts, or None."""
    if not isinstance(X, np.ndarray | list | tuple):
        return False
    try:
        array = np.asarray(X)
    except ValueError:  # ragged, which scikit-learn says better
        return False
    if array.ndim != 2 or array.dtype.kind not in "OUST":
        return False
    return array.dtype.kind != "O" or any(
        cell is None or isinstance(cell, str) for cell in array.flat
    )


def columns_of(X: Any, categorical_features: Any) -> Columns | None:
    """Return the columns of training data; None for an array of numbers.

    Parameters
    ----------
    X
        A frame, or an array (N, n).
    categorical_features
        As for `BoxNNClassifier`.

    Raises
    ------
    OptionError
        `categorical_features` does not fit the columns.
    InputError
        As for `Columns.of`.
    """
    named = is_table(X)
    if named:
        table = named_columns(X)
    else:
        array = np.asarray(X)
        table = {f"x{k}": values for k, values in enumerate(array.T)}
    names = list(table)
    if categorical_features is None:
        return Columns.of(table, numeric=names) if named or has_texts(X) else None
    chosen = [] if is_default(categorical_features) else _chosen(categorical_features, names)
    if not (named or chosen or has_texts(X)):
        return None
    columns = Columns.of(table, categorical=chosen)
    if named:
        return columns
    return Columns([_numbered(column) for column in columns])


def is_default(categorical_features: Any) -> bool:
    """Return whether the types of the columns say which are categories."""
    return isinstance(categorical_features, str) and categorical_features == FROM_DTYPE


def _chosen(given: Any, names: Sequence[str]) -> list[str]:
    """Return the names of columns that are given by name, by position or as a mask."""
    if isinstance(given, str):
        raise OptionError(
            f"`categorical_features` is {given!r}; pass a list of columns, None or {FROM_DTYPE!r}"
        )
    array = np.asarray(given)
    if array.size == 0:
        return []
    if array.ndim == 1 and array.dtype == bool and len(array) == len(names):
        return [name for name, yes in zip(names, array, strict=True) if yes]
    if array.ndim == 1 and array.dtype.kind in "iu" and -len(names) <= array.min():
        if array.max() < len(names):
            return [names[k] for k in array]
    elif array.ndim == 1 and array.dtype.kind in "OU" and set(array.tolist()) <= set(names):
        return [str(name) for name in array]
    raise OptionError(
        f"`categorical_features` {given!r} does not fit the {len(names)} columns "
        f"({', '.join(names[:8])}{', ...' if len(names) > 8 else ''}); pass names, positions or "
        "booleans of them"
    )


def _numbered(column: Column) -> Column:
    """Return a column whose categories 0, 1, ... are their own places, also of those not seen.

    So an array of whole numbers is one of raw values as well.
    """
    whole = [int(text) for text in column.categories if text.isdecimal()]
    if (
        len(whole) < len(column.categories)
        or max(whole, default=MOST_CATEGORIES) >= MOST_CATEGORIES
    ):
        return column
    return replace(column, categories=tuple(map(str, range(max(whole) + 1))))
