"""Validation: the only place that checks shapes, dtypes and ranges.

Called at public entries, never in kernels. Each function returns its argument
in the form that the caller needs, or raises an error that says what was wrong
and what to do.
"""

from __future__ import annotations

import math
import reprlib
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba.errors import InputError, OptionError

MAX_CODE = 255


# --- scalars ---------------------------------------------------------------------------


def width(value: int) -> int:
    """Return a box width, 1..255."""
    return integer("width", value, low=1, high=MAX_CODE)


def positive(name: str, value: int) -> int:
    """Return an integer of at least 1."""
    return integer(name, value, low=1)


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an integer between `low` and `high`, both included."""
    try:
        number = int(value)
        whole = number == value
    except (TypeError, ValueError, OverflowError):
        whole = False
    limits = f"from {low} to {high}" if high is not None else f"of at least {low}"
    whole = whole and not isinstance(value, bool | np.bool_)
    if not whole or number < low or (high is not None and number > high):
        raise OptionError(f"{name} is {_shown(value)}; it must be a whole number {limits}")
    return number


def real(
    name: str, value: Any, low: float, high: float = math.inf, open_low: bool = False
) -> float:
    """Return a finite number between `low` (excluded if `open_low`) and `high`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    inside = low < number <= high if open_low else low <= number <= high
    if not (inside and math.isfinite(number)):
        limits = f"above {low:g}" if open_low else f"of at least {low:g}"
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise OptionError(f"{name} is {_shown(value)}; it must be a finite number {limits}{upper}")
    return number


def _shown(value: Any) -> str:
    """Return a value as one line of an error has it; arrays have more."""
    return textwrap.shorten(repr(value), 60, placeholder=" ...")


def log_share(name: str, value: float) -> float:
    """Return the logarithm of a number of 0..1: at most 0, possibly -inf."""
    number = float(value)
    if not number <= 0:
        raise OptionError(f"{name} is {value!r}; it must be the logarithm of a share, at most 0")
    return number


def choice(name: str, value: str, known: Collection[str]) -> str:
    """Return `value` if it is one of `known`."""
    if value not in known:
        raise OptionError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    return value


def several(name: str, values: Any) -> list[Any]:
    """Return several paths as a list; a single path is refused."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise OptionError(f"`{name}` is one path; pass a list of paths")
    return list(values)


def radii(values: Sequence[float] | np.ndarray, budgets: bool = False) -> np.ndarray:
    """Return radii as an int64 vector, each at least 0; budgets may be float64 as well."""
    try:
        array = np.atleast_1d(np.asarray(values))
    except ValueError:  # lists of several lengths
        array = np.empty(0)
    right = array.ndim == 1 and len(array) > 0 and array.dtype.kind in "iuf"
    right = right and bool(((array >= 0) & (array < 2.0**63)).all())
    if right and budgets and array.dtype.kind == "f":
        return array.astype(np.float64)
    if not right or (array != np.floor(array)).any():
        kind = "" if budgets else "whole "
        raise OptionError(
            f"radii are {reprlib.repr(values)}; pass one or more {kind}numbers of at least 0"
        )
    return array.astype(np.int64)


# --- arrays ----------------------------------------------------------------------------


def rectangular(name: str, value: ArrayLike) -> np.ndarray:
    """Return an array, of lists whose rows all have the same length."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} is ragged: its rows differ in length; pass one length") from error


def has_names(values: Any, names: Collection[str]) -> bool:
    """Return whether values are named, as those of a mapping or a pandas Series are.

    A Series that is numbered 0, 1, ... is an array, unless the columns have those `names`.
    """
    index = getattr(values, "index", None)
    if isinstance(values, Mapping) or index is None or callable(index):
        return isinstance(values, Mapping)
    keys = list(index)
    numbered = keys == list(range(len(keys))) and not {*map(str, keys)} <= {*names}
    return getattr(values, "ndim", 0) == 1 and not numbered


def matrix(name: str, value: ArrayLike, empty: bool = False) -> np.ndarray:
    """Return a two-dimensional array with at least one column and, unless `empty`, one row."""
    array = rectangular(name, value)
    if array.ndim != 2:
        raise InputError(
            f"{name} has shape {array.shape}; it must be two-dimensional, (rows, features)"
        )
    if 0 in array.shape[empty:]:
        raise InputError(f"{name} is empty, shape {array.shape}; pass at least one row and column")
    return array


def unmasked(name: str, value: Any) -> None:
    """Raise if some values of samples are masked, for an array loses its mask where it is read."""
    if np.ma.is_masked(value):
        raise InputError(f"{name} has masked values; fill them first, missing data as NaN")


def flat_rows(name: str, value: ArrayLike, empty: bool = False) -> np.ndarray:
    """Return (N, ...) data as a matrix (N, n), e.g. images as rows of pixels.

    With `empty` there may be no rows.
    """
    unmasked(name, value)
    array = rectangular(name, value)
    if array.ndim > 2:
        array = array.reshape(array.shape[0], math.prod(array.shape[1:]))
    return matrix(name, array, empty)


def samples(
    name: str, value: ArrayLike, shape: Sequence[int], other: str, empty: bool = False
) -> np.ndarray:
    """Return samples, as flat rows or of the shape that `other` has, as a matrix (N, n).

    With `empty` there may be no rows.
    """
    array = flat_rows(name, value, empty)
    alone = (len(array), *np.shape(value)[1:]) == tuple(shape)
    if alone and array.shape[1] != math.prod(shape):
        raise InputError(f"{name} is one sample, of shape {tuple(shape)}; pass {name}[None]")
    same_features(name, array, math.prod(shape), other)
    same_axes(name, np.shape(value)[1:], shape, other)
    return array


def same_axes(name: str, found: Sequence[int], shape: Sequence[int], other: str) -> None:
    """Raise if samples of a shape hold features in another order than those of `other`.

    Nobody knows the axes of flat rows, and axes of length 1 change no order.
    """
    long, wanted = ([size for size in sizes if size != 1] for sizes in (found, shape))
    if long != wanted and min(len(long), len(wanted)) > 1:
        raise InputError(
            f"{name} has samples of shape {tuple(found)} and {other} has {tuple(shape)}; put the "
            "axes in that order (numpy.moveaxis), or pass rows that are flattened in it"
        )


def codes(name: str, value: ArrayLike, empty: bool = False) -> np.ndarray:
    """Return a C-contiguous uint8 matrix; other types must hold whole numbers 0..255.

    With `empty` there may be no rows.
    """
    array = flat_rows(name, value, empty)
    if array.dtype != np.uint8:
        if array.dtype.kind not in "iufb":
            raise InputError(f"{name} has dtype {array.dtype}; codes must be whole numbers 0..255")
        wrong = ~((array >= 0) & (array <= MAX_CODE) & (array == np.floor(array)))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"{name} holds {array[row, column]} at row {row}, feature {column}; codes must be "
                "whole numbers 0..255 (real features need a model with a Grid)"
            )
    return np.ascontiguousarray(array, dtype=np.uint8)


def features(
    name: str, value: ArrayLike, missing: bool = False, empty: bool = False, first: int = 0
) -> np.ndarray:
    """Return a finite float matrix (float32 stays, everything else becomes float64).

    With `missing` cells may be NaN, with `empty` there may be no rows. Messages count rows from
    `first` on.
    """
    array = flat_rows(name, value, empty)
    if array.dtype.kind not in "iufb":
        raise InputError(f"{name} has dtype {array.dtype}; features must be numbers")
    array = np.ascontiguousarray(array, dtype=None if array.dtype == np.float32 else np.float64)
    wrong = np.isinf(array) if missing else ~np.isfinite(array)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        drop = "drop or fill" + (" infinite" if missing else " NaN and infinite")
        raise InputError(
            f"{name} holds {array[row, column]} at row {first + row}, feature {column}; {drop} "
            "values first"
        )
    return array


def places(name: str, array: np.ndarray, columns: Mapping[int, tuple[str, int]]) -> None:
    """Raise unless raw values of some columns are places among as many categories.

    columns are names and numbers of categories, by position. The place after the last stands for
    all other categories, and NaN for none.
    """
    for k, (column, count) in columns.items():
        cells = array[:, k]
        right = np.isnan(cells) | (cells >= 0) & (cells <= count) & (cells == np.floor(cells))
        if not right.all():
            row = int((~right).argmax())
            raise InputError(
                f"{name} holds {cells[row]:g} at row {row} in column {column!r}, and raw values "
                f"there are places 0..{count} among its categories; pass a table of cells"
            )


def same_features(name: str, array: np.ndarray, n_features: int, other: str) -> None:
    """Raise unless `array` has `n_features` columns."""
    if array.shape[1] != n_features:
        raise InputError(
            f"{name} has {array.shape[1]} features and {other} has {n_features}; they must agree"
        )


def labels(name: str, value: ArrayLike, n_rows: int) -> np.ndarray:
    """Return a one-dimensional array of integers, booleans or strings with `n_rows` entries."""
    array = rectangular(name, value)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}; labels must be one-dimensional")
    if len(array) != n_rows:
        raise InputError(f"{name} has {len(array)} labels for {n_rows} rows; they must agree")
    if np.ma.is_masked(value) or any(map(_is_absent, array if array.dtype.kind in "fO" else ())):
        raise InputError(f"{name} has rows without a label; drop them first")
    if array.dtype.kind == "O":
        whole = all(isinstance(item, (int, np.integer)) for item in array)
        array = array.astype(np.int64) if whole else np.array([str(item) for item in array])
    if array.dtype.kind == "f" and np.array_equal(array, np.floor(array)):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iubU":
        raise InputError(f"{name} has dtype {array.dtype}; labels must be integers or strings")
    return array


def _is_absent(label: Any) -> bool:
    """Return whether there is no label, which None, NaN and pandas' NA say."""
    if isinstance(label, float | np.floating):
        return bool(label != label)
    return label is None or type(label).__name__ in ("NAType", "NaTType")


def class_distances(value: ArrayLike) -> np.ndarray:
    """Return an integer matrix (N, K) with K >= 2; there may be no rows."""
    array = matrix("class_distance", value, empty=True)
    if array.dtype.kind not in "iu":
        raise InputError(f"class_distance has dtype {array.dtype}; it must be integer units")
    if array.shape[1] < 2:
        raise InputError("class_distance has one class; a certificate needs at least two")
    if len(array) and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        raise InputError("class_distance has values outside 0..2147483647; pass distances in units")
    return array


def votes(name: str, value: ArrayLike) -> np.ndarray:
    """Return votes (N, K) as int64, K >= 2; every row must have the same total, at least 1."""
    array = matrix(name, value)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} has dtype {array.dtype}; votes must be whole numbers")
    if array.shape[1] < 2:
        raise InputError(f"{name} has one class; a vote needs at least two")
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise InputError(f"{name} has values outside 0..2147483647; pass numbers of votes")
    totals = array.sum(axis=1, dtype=np.int64)
    if (totals != totals[0]).any():
        row = int((totals != totals[0]).argmax())
        raise InputError(
            f"{name} do not add up: row 0 has {totals[0]} votes and row {row} has {totals[row]}; "
            "every row needs the same number"
        )
    if not 1 <= totals[0] <= np.iinfo(np.int32).max:
        raise InputError(f"{name} have {totals[0]} in each row; pass 1 to 2147483647")
    return array.astype(np.int64)


def scores(name: str, value: ArrayLike, shape: Sequence[int | None]) -> np.ndarray:
    """Return floating-point scores without NaN; None in `shape` stands for any size."""
    array = rectangular(name, value)
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{name} have shape {array.shape}; they must have shape ({wanted})")
    if array.dtype.kind != "f":
        raise InputError(f"{name} have dtype {array.dtype}; they must be floating-point numbers")
    missing = np.isnan(array)
    if missing.any():
        row = np.argwhere(missing)[0][0]
        raise InputError(f"{name} hold NaN in row {row}; mend or retrain the base classifier")
    return array


def class_indices(name: str, value: ArrayLike, n_rows: int, n_classes: int) -> np.ndarray:
    """Return one class index 0..n_classes - 1 for each row, as int64."""
    array = rectangular(name, value)
    if array.shape != (n_rows,) or array.dtype.kind not in "iu":
        raise InputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; "
            f"it must be {n_rows} whole numbers, one for each row"
        )
    wrong = (array < 0) | (array >= n_classes)
    if wrong.any():
        raise InputError(
            f"{name} is {array[wrong][0]} at row {wrong.argmax()}; classes are 0..{n_classes - 1}"
        )
    return array.astype(np.int64)


def partition(name: str, value: ArrayLike, n_features: int, group_size: int = 1) -> np.ndarray:
    """Return the part of each feature as int32 (n,); parts are 0..T-1 and none is empty.

    Features of a group, which follow each other, are in one part.
    """
    array = rectangular(name, value)
    if array.shape != (n_features,) or array.dtype.kind not in "iu" or array.min() < 0:
        raise InputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; it must be {n_features} "
            "whole numbers of at least 0, one for each feature"
        )
    if array.max() >= n_features or (np.bincount(array) == 0).any():
        raise InputError(f"{name} leaves a part without features; number the parts 0..T-1")
    grouped = array.reshape(group_count(group_size, n_features), group_size)
    if (grouped != grouped[:, :1]).any():
        raise InputError(
            f"{name} has a group of {group_size} features in two parts; give them one, as "
            "make_partition does"
        )
    return array.astype(np.int32)


def sample_weight(value: ArrayLike, rows: int) -> np.ndarray:
    """Return sample weights as (N,) float64; one number is that of all rows."""
    try:
        weights = np.asarray(value)
        if weights.dtype.kind == "c" or np.ma.is_masked(value):
            raise ValueError
        weights = weights.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(
            "`sample_weight` holds something that is no number; pass a number for each row"
        ) from None
    if weights.ndim == 0:
        weights = np.full(rows, float(weights))
    if weights.shape != (rows,):
        raise InputError(
            f"`sample_weight` has shape {weights.shape} and there are {rows} rows; pass one for "
            "each"
        )
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise InputError(
            f"`sample_weight` of row {bad[0]} is {weights[bad[0]]:g}; weights are finite and >= 0"
        )
    return weights


def unmasked_labels(name: str, value: Any) -> None:
    """Raise if some entries of a vector are masked: their rows count for nothing."""
    if np.ma.is_masked(value):
        raise InputError(f"{name} has masked values; leave out their rows first")


def outcomes(
    prediction: ArrayLike, radius: ArrayLike, y: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions, radii and true classes as vectors of one length.

    Radii are numbers of at least 0, or -1 where nothing is certified. Classes are texts in both or
    in neither, for no text equals a number.
    """
    given = {"prediction": prediction, "radius": radius, "y": y}
    for name, value in given.items():
        unmasked_labels(name, value)
    arrays = tuple(np.asarray(item) for item in given.values())
    shapes = [array.shape for array in arrays]
    if any(array.ndim != 1 for array in arrays) or len(set(shapes)) != 1:
        raise InputError(
            f"prediction, radius and y have shapes {shapes}; they must be one length (N,)"
        )
    need_samples(len(arrays[0]))
    if _has_texts(arrays[0]) != _has_texts(arrays[2]):
        texts, others = ("prediction", "y") if _has_texts(arrays[0]) else ("y", "prediction")
        raise InputError(
            f"labels of {texts} are texts and those of {others} are not; pass labels of one type"
        )
    return arrays[0], _certified(arrays[1]), arrays[2]


def need_samples(count: int) -> None:
    """Raise if there are no samples."""
    if count == 0:
        raise InputError("there are no samples; pass at least one")


def _has_texts(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "US" or isinstance(labels[0], str)


def _certified(array: np.ndarray) -> np.ndarray:
    """Return a vector of certified radii."""
    if array.dtype.kind == "O":
        array = np.asarray(array.tolist())
    if array.dtype.kind not in "iuf":
        raise InputError(f"radius has dtype {array.dtype}; certified radii are numbers")
    wrong = ~((array >= 0) | (array == -1))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"radius is {array[row]} at row {row}; certified radii are at least 0, or -1 where "
            "nothing is certified"
        )
    return array


def all_labels(name: str, value: ArrayLike) -> np.ndarray:
    """Return labels of any type as a vector of at least one."""
    array = np.asarray(value)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}; labels must be one-dimensional")
    need_samples(len(array))
    return array


def box_bounds(lower: ArrayLike, upper: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper as matrices of one shape and dtype with lower <= upper."""
    low, high = matrix("lower", lower), matrix("upper", upper)
    if low.shape != high.shape:
        raise InputError(f"lower has shape {low.shape} and upper {high.shape}; they must agree")
    if low.dtype != high.dtype:
        raise InputError(f"lower is {low.dtype} and upper {high.dtype}; they must agree")
    crossed = ~(low <= high)
    if crossed.any():
        row, column = np.argwhere(crossed)[0]
        raise InputError(
            f"box {row} has lower {low[row, column]} > upper {high[row, column]} "
            f"at feature {column}; every box needs lower <= upper"
        )
    return low, high


# --- attacks ---------------------------------------------------------------------------


def limits(
    domain: tuple[ArrayLike, ArrayLike] | None, n: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) arrays with the least and the largest value that an attack may write.

    `domain` is (low, high), numbers or (n,) arrays; None stands for 0..255 of uint8.
    """
    if domain is None:
        if dtype != np.uint8:
            raise OptionError(f"features are {dtype}; pass domain=(low, high) for what they may be")
        domain = 0, 255
    if not isinstance(domain, tuple | list) or len(domain) != 2:
        raise OptionError(f"domain is {domain!r}; pass (low, high)")
    whole = dtype.kind in "iu"
    info = np.iinfo(dtype) if whole else np.finfo(dtype)
    low, high = (
        _bound(name, value, n, whole, info)
        for name, value in zip(("low", "high"), domain, strict=True)
    )
    if (low > high).any():
        at = int((low > high).argmax())
        raise OptionError(f"domain has low {low[at]} > high {high[at]} at feature {at}; swap them")
    return low, high


def _bound(name: str, value: ArrayLike, n: int, whole: bool, info: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.shape not in ((), (n,)):
        raise OptionError(
            f"domain has {name} of shape {array.shape}; pass one number or {n}, one per feature"
        )
    numbers = array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
    fits = numbers and bool(((array >= info.min) & (array <= info.max)).all())
    if not fits or (whole and (array != np.floor(array)).any()):
        kind = "whole" if whole else "finite"
        raise OptionError(
            f"domain has {name} {value!r}; it must be {kind} numbers {info.min}..{info.max}"
        )
    return np.broadcast_to(array, (n,)).astype(np.int64 if whole else np.float64)


def mask(name: str, value: ArrayLike, n: int) -> np.ndarray:
    """Return an (n,) array of booleans."""
    array = np.asarray(value)
    if array.shape != (n,) or array.dtype != bool:
        raise OptionError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; pass {n} booleans, one per "
            "feature"
        )
    return array


def offsets(name: str, value: ArrayLike | None, n_classes: int) -> np.ndarray:
    """Return (K,) int64 constants that are added to class distances; None is zeros.

    Only their differences matter; the smallest becomes 0, so that distances stay above it.
    """
    array = np.zeros(n_classes, np.int64) if value is None else np.asarray(value)
    # Both ends: the absolute value of the smallest integer is that integer.
    small = array.dtype.kind in "iu" and bool(((array >= -(2**29)) & (array <= 2**29)).all())
    if array.shape != (n_classes,) or not small:
        raise InputError(
            f"`{name}` has shape {array.shape} and dtype {array.dtype}; pass {n_classes} whole "
            "numbers, one per class, within 2 ** 29"
        )
    return array.astype(np.int64) - int(array.min())


def groups(group_size: int, feature_shape: tuple[int, ...]) -> None:
    """Raise unless features that follow each other in a sample make up whole groups.

    Of images a group is the channels of a pixel, so these must come last.
    """
    sizes = np.cumprod(feature_shape[::-1])
    if len(sizes) > 1 and group_size > 1 and group_size not in sizes:
        raise OptionError(
            f"`group_size` {group_size} does not fit samples of shape {tuple(feature_shape)}: "
            "features that follow each other are a group; put the channels of a pixel last"
        )
    if len(sizes) and sizes[-1] % group_size:
        raise OptionError(f"`group_size` {group_size} does not divide the {sizes[-1]} features")


def group_count(group_size: int, n_features: int) -> int:
    """Return how many groups of features that follow each other a sample has."""
    size = integer("group_size", group_size, low=1, high=n_features)
    groups(size, (n_features,))
    return n_features // size


def patches(name: str, value: Any) -> tuple[tuple[int, int], ...]:
    """Return sizes of blocks of pixels, (rows, columns) each, all different.

    A number is the side of a square, a tuple (or ``"3x7"``) rows and columns; a list, or words with
    commas between them, has several.
    """
    given = value.split(",") if isinstance(value, str) else value
    found = [_patch(name, one) for one in (given if isinstance(given, list) else [given])]
    if not found or len(set(found)) < len(found):
        raise OptionError(f"{name} is {value!r}; pass sizes of blocks that differ, e.g. 2,5,3x7")
    return tuple(found)


def one_patch(name: str, value: Any) -> tuple[int, int]:
    """Return the one size of blocks that is given, as for `patches`."""
    sizes = patches(name, value)
    if len(sizes) > 1:
        raise OptionError(f"{name} is {value!r}; pass one size of blocks, e.g. 5 or 3x7")
    return sizes[0]


def patches_for(certificate: str, patch: Any) -> tuple[tuple[int, int], ...]:
    """Return the sizes of blocks of a kind of certificate, none but for patches."""
    if certificate == "patch":
        if patch is None:
            raise OptionError("the certificate patch needs `patch`, e.g. 5 or 3x7")
        return patches("patch", patch)
    if patch is not None:
        raise OptionError("`patch` is for the certificate patch; leave one of them out")
    return ()


def _patch(name: str, value: Any) -> tuple[int, int]:
    sides = value.lower().split("x") if isinstance(value, str) else value
    sides = tuple(sides) if isinstance(sides, tuple | list) else (sides,)
    try:
        sides = tuple(int(side) if isinstance(side, str) else side for side in sides)
        rows, columns = (positive(name, side) for side in (*sides, *sides)[: max(2, len(sides))])
    except (ValueError, OptionError):
        raise OptionError(
            f"{name} is {value!r}; pass the side of a square of pixels, or rows x columns as 3x7"
        ) from None
    return rows, columns


def image_shape(shape: Sequence[int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Return height, width and channels of samples that are images which hold all blocks."""
    if len(shape) not in (2, 3):
        raise InputError(
            f"samples have the shape {tuple(shape)}, and patches are of images (height, width) or "
            "(height, width, channels); give the data set that shape"
        )
    height, width, channels = (*shape, 1)[:3]
    for rows, columns in sizes:
        if rows > height or columns > width:
            raise OptionError(
                f"a patch of {rows} x {columns} does not fit into images of {height} x {width} "
                "pixels; pass a smaller one"
            )
    return height, width, channels


# --- data sets -------------------------------------------------------------------------


def fraction(name: str, value: float) -> float:
    """Return a number between 0 and 1, both excluded."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < 1:
        raise OptionError(f"{name} is {_shown(value)}; it must be between 0 and 1, both excluded")
    return number


def sample_shape(value: Sequence[int], n_features: int) -> tuple[int, ...]:
    """Return the shape of one sample after checking that it holds `n_features` values."""
    if not isinstance(value, Sequence | np.ndarray):
        raise OptionError(f"shape is {_shown(value)}; pass a size for each axis, e.g. (28, 28)")
    shape = tuple(positive("shape", size) for size in value)
    if math.prod(shape) != n_features:
        raise OptionError(
            f"shape {','.join(map(str, shape))} holds {math.prod(shape)} values and a sample has "
            f"{n_features} features; they must agree"
        )
    return shape
