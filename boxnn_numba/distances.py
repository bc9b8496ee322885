"""Distance functions on NumPy and CuPy arrays: checks, layout, kernels.

Arrays that are on a GPU (CuPy's, or any with ``__cuda_array_interface__``) are used there without
a copy, on CuPy's current stream. Their results are on the GPU too: CuPy arrays for CuPy arrays,
else Numba's. Lazy and stored arrays are processed block by block, see `boxnn_numba.lazy`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import lazy, validation
from boxnn_numba.backends.box_layout import UNREACHABLE
from boxnn_numba.backends.devices import get_backend, on_gpu
from boxnn_numba.backends.protocol import Backend
from boxnn_numba.boxes import Boxes
from boxnn_numba.errors import InputError

_LAYING_OUT = threading.Lock()
_LAID_OUT: weakref.WeakKeyDictionary[Boxes, dict[tuple[str, str], Any]] = (
    weakref.WeakKeyDictionary()
)

__all__ = ["UNREACHABLE", "box_distance", "class_distance", "pairwise_distance", "part_distance"]


def box_distance(x: ArrayLike, lower: ArrayLike, upper: ArrayLike, width: float = 1) -> np.ndarray:
    """Return the graded distance of every sample to every box.

    ``out[i, m] = sum_k min(max(lower[m, k] - x[i, k], x[i, k] - upper[m, k], 0), width)``

    Parameters
    ----------
    x
        (N, n) uint8 codes, or float32 or float64 features (other numbers become float64). May be
        lazy, and then so is the result.
    lower, upper
        (M, n) bounds of the same type, lower <= upper; infinite float bounds leave a side open.
    width
        Cap of one feature's penalty, in the unit of the features: 1..255 for codes, where 1 counts
        the features outside (Lemma 4.1); any positive number for floats.

    Returns
    -------
    (N, M) ndarray
        int32 units for uint8, else the type of `x`.

    Raises
    ------
    InputError
        Shapes or types do not agree, values are not finite, or a box is crossed.
    OptionError
        `width` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from boxnn_numba import box_distance
    >>> x = np.array([[0, 128, 255]], dtype=np.uint8)
    >>> box_distance(x, x - np.uint8([[0, 28, 55]]), x - np.uint8([[0, 8, 5]]), width=6)
    array([[11]], dtype=int32)
    >>> box_distance([[0.5, 2.0]], [[0.0, 0.0]], [[1.0, 1.0]], width=0.25)
    array([[0.25]])
    """
    if on_gpu(x):
        return get_backend("cuda").box_distance(x, lower, upper, width)
    if _dtype_of(x) == np.uint8:
        low = validation.codes("lower", lower)
        units = validation.width(width)  # type: ignore[arg-type]
        boxes = Boxes(low, upper, np.zeros(len(low), np.int32), units)
        return pairwise_distance(x, boxes)
    bounds = np.asarray(lower), np.asarray(upper)
    return lazy.map_rows(_float_distance, bounds, x, {"box": None}, width=width)


def _dtype_of(x: Any) -> Any:
    """Return the type of all values of rows, those of a frame of Dask put together."""
    known = x._meta if lazy.is_frame(x) else x
    return known.dtype if lazy.is_deferred(known) else np.asarray(known).dtype


def _float_distance(
    bounds: tuple[np.ndarray, np.ndarray], x: ArrayLike, width: float
) -> np.ndarray:
    """Return the distances (N, M) of features to bounds, in the type of the features."""
    samples = validation.features("x", x, empty=True)
    low, high = validation.box_bounds(*(np.asarray(side, dtype=samples.dtype) for side in bounds))
    validation.same_features("x", samples, low.shape[1], "lower")
    cap = validation.real("width", width, 0, open_low=True)
    return get_backend("cpu").float_distances(samples, low, high, cap)


def pairwise_distance(
    x: ArrayLike, boxes: Boxes, out: np.ndarray | None = None, device: str = "cpu"
) -> np.ndarray:
    """Return the distance of every sample to every box, in integer units.

    Parameters and errors are those of `class_distance`; `out` is (N, M).

    Returns
    -------
    (N, M) int32
        ``D_m(x_i)`` in units of 1 / width, columns in the order of `boxes` (sorted by label).

    Examples
    --------
    >>> from boxnn_numba import Boxes, pairwise_distance
    >>> pairwise_distance([[9, 9]], Boxes([[0, 0], [5, 20]], [[9, 5], [8, 30]], [0, 1], width=3))
    array([[3, 4]], dtype=int32)
    """
    if out is None and lazy.is_deferred(x):
        return lazy.map_rows(_pairwise_distance, boxes, x, {"box": None}, device=device)
    backend, codes, out = _prepared(x, boxes, out, len(boxes), device)
    form = "whole" if boxes.structure.n_parts > 1 else "table"
    if codes.shape[0]:
        backend.part_distances(codes, laid_out(boxes, backend, form), boxes.width, out)
    return out


def part_distance(x: ArrayLike, boxes: Boxes, device: str = "cpu") -> np.ndarray:
    """Return the distance of every sample to every box in each part, in integer units.

    Parameters and errors are those of `class_distance`.

    Returns
    -------
    (N, P, M) int32
        Columns in the order of `boxes` (sorted by label and template); the sums over the parts are
        the distances of `pairwise_distance`.

    Examples
    --------
    >>> from boxnn_numba import Boxes
    >>> from boxnn_numba.distances import part_distance
    >>> boxes = Boxes([[0, 0], [5, 20]], [[9, 5], [8, 30]], [0, 1], width=3, part=[0, 1])
    >>> part_distance([[9, 9]], boxes)
    array([[[0, 1],
            [3, 3]]], dtype=int32)
    """
    n_parts = boxes.structure.n_parts
    backend, codes, out = _prepared(x, boxes, None, n_parts * len(boxes), device)
    if codes.shape[0]:
        backend.part_distances(codes, laid_out(boxes, backend, "table"), boxes.width, out)
    return out.reshape(out.shape[0], n_parts, len(boxes))


def class_distance(
    x: ArrayLike,
    boxes: Boxes,
    out: np.ndarray | None = None,
    device: str = "cpu",
    chunk: int | None = None,
) -> np.ndarray:
    """Return the distance of every sample to the nearest box of every class.

    Parameters
    ----------
    x
        (N, n) codes 0..255. May be lazy, and then so is the result.
    boxes
        Boxes of n features and K classes.
    out
        (N, K) int32 array to write to; a new one by default.
    device, chunk
        Where arrays of the host are computed, as for `get_backend`.

    Returns
    -------
    (N, K) int32
        Class distances in units of 1 / width; `UNREACHABLE` for a class that has no box. No (N, M)
        matrix is made.

    Raises
    ------
    InputError
        `x` is not codes, its features differ from the boxes', or `out` does not fit.

    Examples
    --------
    >>> from boxnn_numba import Boxes, class_distance
    >>> class_distance([[9, 9]], Boxes([[0, 0], [5, 20]], [[9, 5], [8, 30]], [0, 1], width=3))
    array([[3, 4]], dtype=int32)
    """
    if out is None and lazy.is_deferred(x):
        kind = {"device": device, "chunk": chunk}
        return lazy.map_rows(_class_distance, boxes, x, {"class": None}, **kind)
    backend, codes, out = _prepared(x, boxes, out, boxes.n_classes, device, chunk)
    if codes.shape[0]:
        backend.class_distance(codes, laid_out(boxes, backend, "layout"), boxes.width, out)
    return out


def _pairwise_distance(boxes: Boxes, x: ArrayLike, device: str) -> np.ndarray:
    return pairwise_distance(x, boxes, device=device)


def _class_distance(boxes: Boxes, x: ArrayLike, device: str, chunk: int | None) -> np.ndarray:
    return class_distance(x, boxes, device=device, chunk=chunk)


def laid_out(boxes: Boxes, backend: Backend, form: str) -> Any:
    """Return boxes laid out for the kernels of a backend, made once and kept while the boxes live.

    Backends of one device share it. The form is ``"table"`` for distances to all boxes part by
    part, ``"whole"`` for those of all parts together, ``"layout"`` for those to classes.
    """
    with _LAYING_OUT:  # tasks that begin together wait for one of them
        known = _LAID_OUT.setdefault(boxes, {})
        key = backend.name, form
        if key not in known:
            structure = boxes.structure.whole if form == "whole" else boxes.structure
            lay_out = backend.layout if form == "layout" else backend.table
            known[key] = lay_out(boxes.lower, boxes.upper, structure, boxes.width)
        return known[key]


def ensemble_distance(
    x: ArrayLike,
    sets: Sequence[Boxes],
    device: str = "cpu",
    chunk: int | None = None,
    offset: np.ndarray | None = None,
) -> np.ndarray:
    """Return the sums of class distances (N, K) int32 over sets of boxes.

    Parameters and errors are those of `class_distance`; offset (K,) int64, each at least 0, is
    added. A class without a box stays `UNREACHABLE`, and others stay below that.
    """
    total = class_distance(x, sets[0], device=device, chunk=chunk)
    for boxes in sets[1:]:
        more = class_distance(x, boxes, device=device, chunk=chunk)
        if on_gpu(total):
            get_backend("cuda").add_up(total, more)
            continue
        total = np.minimum(total.astype(np.int64) + more, UNREACHABLE).astype(np.int32)
    if offset is None or not offset.any():
        return total
    if on_gpu(total):
        get_backend("cuda").add_up(total, offset)
        return total
    moved = np.minimum(total + offset, UNREACHABLE - 1)
    return np.where(total == UNREACHABLE, UNREACHABLE, moved).astype(np.int32)


def _prepared(
    x: ArrayLike, boxes: Boxes, out: Any, columns: int, device: str, chunk: int | None = None
) -> tuple[Any, Any, Any]:
    """Return the backend, the codes, and where to write, all in one memory."""
    if on_gpu(x):
        backend = get_backend("cuda")
        codes = backend.checked("x", x, np.uint8, (None, boxes.n_features))
        return backend, codes, backend.output(out, x, (codes.shape[0], columns))
    codes = validation.codes("x", x, empty=True)
    validation.same_features("x", codes, boxes.n_features, "boxes")
    return get_backend(device, None, chunk), codes, _output(out, (len(codes), columns))


def _output(out: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    if out is None:
        return np.empty(shape, np.int32)
    if on_gpu(out):
        raise InputError("out is on a GPU and x is not; they must be in one memory")
    if out.shape != shape or out.dtype != np.int32 or not out.flags.c_contiguous:
        raise InputError(
            f"out is {out.dtype} of shape {out.shape}; it must be C-contiguous int32 of {shape}"
        )
    return out
