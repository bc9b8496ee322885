"""Lazy arrays: functions of rows on Dask arrays and frames, xarray's arrays, and stored arrays.

A public function passes rows that are not in memory to `map_rows`, with the function that answers
for rows in memory. If it is that function itself, it calls `is_deferred` first. None of the
libraries is imported unless the caller passes its arrays.

    lazy      Dask arrays and frames            lazy Dask arrays, a task for each block
    labelled  xarray.DataArray                  the same with dims and coords, of what it holds
    stored    memory maps, Zarr arrays          NumPy arrays, read and answered block by block
"""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any

import numpy as np

from boxnn_numba.backends.threads import default_threads, limit_threads
from boxnn_numba.errors import InputError

#: Bytes of a stored array that are read at a time, about.
_BLOCK_BYTES = 32 * 2**20
#: Bytes of blocks of Dask that are computed at a time, if it is more than one: most, and those of
#: small blocks.
_GROUP_BYTES, _SMALL_BYTES = 256 * 2**20, 8 * 2**20
#: Seconds that small blocks take together at most, about: so long does whoever interrupts wait.
_GROUP_SECONDS = 1.0
#: Bytes of a graph without what its tasks share.
_GRAPH_BYTES = 10_000_000
#: What tasks share, by content: unpickled once a process where every task brings a copy.
_MOST_KEPT = 4
_KEPT: OrderedDict[str, Shared] = OrderedDict()
_ON_GPU = threading.Lock()
#: Dims of an answer that has a number for each feature: those of the samples, where they are rows.
FEATURES: Mapping[str, Any] = {"feature": None}


# --- what there is -------------------------------------------------------------------------


def is_lazy(x: Any) -> bool:
    """Return whether x is computed by Dask when asked: an array or frame, or xarray over one."""
    return _is_dask_array(x) or is_frame(x) or (is_labelled(x) and _is_dask_array(x.data))


def is_frame(x: Any) -> bool:
    """Return whether x is a frame of Dask."""
    return _is(x, "dask.dataframe", "DataFrame")


def is_series(x: Any) -> bool:
    """Return whether x is a column of a frame of Dask."""
    return _is(x, "dask.dataframe", "Series")


def is_labelled(x: Any) -> bool:
    """Return whether x is an array of xarray."""
    return _is(x, "xarray", "DataArray")


def is_stored(x: Any) -> bool:
    """Return whether x is read from a file where it is sliced: a memory map or a Zarr array."""
    if isinstance(x, np.ndarray):
        return isinstance(x, np.memmap) and x.ndim > 1
    names = ("shape", "dtype", "chunks", "__getitem__")
    return all(hasattr(x, name) for name in names) and not (is_lazy(x) or is_labelled(x))


def is_deferred(x: Any) -> bool:
    """Return whether x is what `map_rows` takes; all else is in memory, as NumPy's arrays are."""
    return is_lazy(x) or is_labelled(x) or is_stored(x)


def _is_dask_array(x: Any) -> bool:
    return _is(x, "dask.array", "Array")


def _is(x: Any, module: str, name: str) -> bool:
    """Return whether x is of a class, whose module is imported if it is."""
    return isinstance(x, getattr(sys.modules.get(module), name, ()))


# --- functions of rows ---------------------------------------------------------------------


def map_rows(
    function: Callable[..., Any],
    shared: Any,
    x: Any,
    dims: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Apply a function of rows to all rows of `x`; the result is of the same kind as `x`.

    Parameters
    ----------
    function
        A function of a module or class, so that other processes find it. It is called as
        ``function(shared, block, **options)`` with some rows in memory, and returns an array with
        as many rows, or a tuple of such arrays. It is first called with no rows, which checks the
        columns at once and gives the types of the results.
    shared
        Object that all calls need, e.g. a model: one key of the graph, sent once. Objects with the
        same content share results.
    x
        (N, ...) rows in any chunks, where chunks of columns are joined; or rows in memory, for
        which the function is called once.
    dims
        Names of the dimensions of the result after the first, with their coordinates or None, for
        xarray arrays; none by default. With `FEATURES` and x (N, n), the dimensions of x.

    Returns
    -------
    array or tuple of arrays
        Arrays of Dask, xarray or NumPy.
    """
    if is_labelled(x):
        found = map_rows(function, shared, x.data, **options)
        return _each(lambda array: _labelled(x, array, dims or {}), found)
    if is_lazy(x):
        return _map_lazy(function, shared, x, options)
    if is_stored(x):
        return _map_stored(function, shared, x, options)
    return function(shared, x, **options)


def _each(wrap: Callable[[Any], Any], found: Any) -> Any:
    """Return an array wrapped, or a tuple of its kind with all of its arrays wrapped."""
    if not isinstance(found, tuple):
        return wrap(found)
    wrapped = [wrap(array) for array in found]
    return type(found)(*wrapped) if hasattr(found, "_fields") else tuple(wrapped)


def _labelled(x: Any, array: Any, dims: Mapping[str, Any]) -> Any:
    """Return an array as a DataArray with the dims and coords that it shares with `x`."""
    if dims is FEATURES and array.ndim == x.ndim:
        shared, dims = tuple(x.dims), {}
    else:
        shared = x.dims[:1]
    if not dims.keys().isdisjoint(shared):
        raise InputError(f"x has rows along {shared[0]!r}, as answers have another; rename that")
    coords = {
        name: one
        for name, one in x.coords.items()
        if set(one.dims) <= set(shared) and name not in dims
    }
    coords |= {name: list(one) for name, one in dims.items() if one is not None}
    found = type(x)(array, coords=coords, dims=(*shared, *dims))
    found.name = None  # else that of the graph
    return found


# --- stored arrays -------------------------------------------------------------------------


def read_blocks(x: Any) -> Generator[tuple[slice, np.ndarray], None, None]:
    """Give the rows of a stored array in blocks of whole chunks, the next one read meanwhile.

    Must be closed, as `computed_blocks`.
    """
    rows, chunk = x.shape[0], chunk_rows(x)
    row_bytes = max(1, int(np.prod(x.shape[1:])) * np.dtype(x.dtype).itemsize)
    step = chunk * max(1, _BLOCK_BYTES // (chunk * row_bytes))
    blocks = [slice(first, min(rows, first + step)) for first in range(0, rows, step)]
    with ThreadPoolExecutor(1, "boxnn-read") as pool:
        ahead = pool.submit(_read, x, blocks[0]) if blocks else None
        for at, block in enumerate(blocks):
            assert ahead is not None
            found = ahead.result()
            if at + 1 < len(blocks):
                ahead = pool.submit(_read, x, blocks[at + 1])
            yield block, found


def chunk_rows(x: Any) -> int:
    """Return how many rows are read whole: of a chunk, the largest, or of a shard of chunks."""
    whole = getattr(x, "shards", None) or getattr(x, "chunks", None)
    if not whole:
        return 1
    # Dask and xarray have the sizes of all chunks of each dimension, Zarr one for all.
    return int(max(whole[0], default=1) if isinstance(whole[0], tuple) else whole[0])


def _read(x: Any, rows: slice) -> np.ndarray:
    return np.asarray(x[rows])


def _map_stored(function: Callable[..., Any], shared: Any, x: Any, options: dict[str, Any]) -> Any:
    none = function(shared, np.empty((0, *x.shape[1:]), x.dtype), **options)
    found = _each(lambda array: np.empty((x.shape[0], *array.shape[1:]), array.dtype), none)
    outs = found if isinstance(found, tuple) else (found,)
    with closing(read_blocks(x)) as blocks:
        for rows, block in blocks:
            try:
                part = function(shared, block, **options)
            except InputError as error:
                raise InputError(f"of the rows from {rows.start} on: {error}") from error
            parts = part if isinstance(part, tuple) else (part,)
            for out, of_rows in zip(outs, parts, strict=True):
                out[rows] = of_rows
    return found


# --- Dask ----------------------------------------------------------------------------------


def content(*parts: Any) -> Any:
    """Return what Dask makes a token of, for the method ``__dask_tokenize__`` of a class."""
    from dask.base import normalize_token

    return normalize_token(parts)


class Shared:
    """Object shared by the tasks of a graph; a process unpickles it only once."""

    def __init__(self, value: Any, token: str) -> None:
        self.value, self.token = value, token

    def __reduce__(self) -> tuple[Any, ...]:
        return _kept, (self.value, self.token)


def _kept(value: Any, token: str) -> Shared:
    """Return the object of this content that this process has: boxes are laid out once in it."""
    found = _KEPT.get(token)
    if found is None:
        found = _KEPT[token] = Shared(value, token)
        while len(_KEPT) > _MOST_KEPT:
            _KEPT.popitem(last=False)
    return found


def _on_block(
    block: Any, shared: Shared, function: Callable[..., Any], options: dict[str, Any]
) -> Any:
    """Answer for a block: a task. Tasks run side by side, so each has one thread, or the GPU."""
    from boxnn_numba.backends.devices import get_backend  # which imports Numba

    alone = get_backend(options.get("device", "cpu")).name == "cuda"
    with limit_threads(1), _ON_GPU if alone else nullcontext():
        try:
            return function(shared.value, _only(block), **options)
        except InputError as error:  # which counts rows from the first of the block
            raise InputError(f"of a block of rows: {error}") from error


def _field(block: Any, number: int) -> Any:
    return _only(block)[number]


def _only(block: Any) -> Any:
    """Return the one block of a row of blocks."""
    while isinstance(block, list):
        (block,) = block
    return block


def _map_lazy(function: Callable[..., Any], shared: Any, x: Any, options: dict[str, Any]) -> Any:
    from dask.base import tokenize
    from dask.delayed import delayed

    if not is_frame(x):
        x = _whole_columns(x)
    none = function(shared, _no_rows(x), **options)
    token = tokenize(shared)
    _expect(shared)
    key = f"{type(shared).__name__.lower()}-{token}"
    one = delayed(Shared(shared, token), name=key, traverse=False)
    work = partial(_on_block, function=function, options=options)
    place = f"{function.__module__}.{function.__qualname__}"
    what, digest = function.__name__.strip("_"), tokenize(place, x, token, options)
    if not isinstance(none, tuple):
        return _blockwise(work, x, none, f"{what}-{digest}", one)
    both = _blockwise(work, x, np.empty((0, 1), object), f"{what}-{digest}", one)
    count = iter(range(len(none)))

    def field(array: Any) -> Any:
        number = next(count)
        return _blockwise(partial(_field, number=number), both, array, f"{what}_{number}-{digest}")

    return _each(field, none)


def _expect(shared: Any) -> None:
    """Keep Dask from warning of graphs as large as what is in them once, and on purpose."""
    import dask

    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
    most = _GRAPH_BYTES + sum(buffer.raw().nbytes for buffer in buffers)
    option = "distributed.admin.large-graph-warning-threshold"
    if most > dask.utils.parse_bytes(dask.config.get(option, _GRAPH_BYTES)):
        dask.config.set({option: most})


def _blockwise(work: Callable[..., Any], x: Any, none: Any, name: str, *shared: Any) -> Any:
    """Return the lazy array that has the results of all blocks; `none` is that of no rows."""
    import dask.array as da

    if is_frame(x):
        return x.map_partitions(work, *shared, meta=none, enforce_metadata=False)
    pairs = [part for one in shared for part in (one, None)]
    kind = {"name": name, "dtype": none.dtype, "meta": none, "align_arrays": False}
    if x.ndim == none.ndim == 2:  # so the task is one with that which makes its block
        sizes = {1: (none.shape[1],)}
        return da.blockwise(work, (0, 1), x, (0, 1), *pairs, adjust_chunks=sizes, **kind)
    outer = tuple(range(x.ndim, x.ndim + none.ndim - 1))
    sizes = dict(zip(outer, none.shape[1:], strict=True))
    return da.blockwise(work, (0, *outer), x, tuple(range(x.ndim)), *pairs, new_axes=sizes, **kind)


def _whole_columns(x: Any) -> Any:
    """Return a Dask array with one chunk in every dimension but the first."""
    if any(np.isnan(size) for sizes in x.chunks[1:] for size in sizes):
        raise InputError(
            f"x has the shape {x.shape}; the number of columns must be known, call "
            "`compute_chunk_sizes`"
        )
    if any(len(sizes) > 1 for sizes in x.chunks[1:]):
        return x.rechunk(dict.fromkeys(range(1, x.ndim), -1))
    return x


def _no_rows(x: Any) -> Any:
    """Return a block of no rows as blocks of x are."""
    if is_frame(x):
        return x._meta
    return np.empty_like(x._meta, shape=(0, *x.shape[1:]), dtype=x.dtype)


def in_memory(*arrays: Any) -> tuple[Any, ...]:
    """Return arrays computed, all together where some are lazy."""
    if not any(map(is_lazy, arrays)):
        return arrays
    import dask

    return tuple(map(np.asarray, dask.compute(*arrays)))


def reduce_rows(
    tally: Callable[..., Any],
    merge: Callable[[list[Any]], Any],
    finish: Callable[[Any], Any],
    arrays: Mapping[str, Any],
    like: np.ndarray,
) -> Any:
    """Return a lazy summary of vectors, at least one of them lazy, from tallies of their blocks.

    ``tally(*blocks)`` counts the rows of one block, ``merge(list)`` adds up tallies, and
    ``finish(tally)`` makes an array of the shape and type of `like`. All rows are never in one
    place.
    """
    import dask.array as da

    vectors = _aligned(arrays)
    pairs = [part for vector in vectors for part in (vector, (0,))]
    each = da.blockwise(
        tally, (0,), *pairs, dtype=object, meta=np.empty(0, object), align_arrays=False
    )
    whole = da.reduction(
        each, chunk=_as_is, combine=partial(_merged, merge=merge),
        aggregate=partial(_merged, merge=merge), concatenate=False, dtype=object,
        meta=np.empty((), object),
    )  # fmt: skip
    axes = tuple(range(like.ndim))
    return da.blockwise(
        finish, axes, whole, (), new_axes=dict(zip(axes, like.shape, strict=True)),
        dtype=like.dtype, meta=like[:0] if like.ndim else like,
    )  # fmt: skip


def _as_is(x: Any, axis: Any, keepdims: bool) -> Any:
    return x


def _merged(parts: Any, axis: Any, keepdims: bool, merge: Callable[[list[Any]], Any]) -> Any:
    return merge(parts if isinstance(parts, list) else [parts])


def _aligned(arrays: Mapping[str, Any]) -> Sequence[Any]:
    """Return vectors as Dask arrays of the same blocks."""
    import dask.array as da

    found = {name: _vector(name, array) for name, array in arrays.items()}
    shapes = [array.shape for array in found.values()]
    known = {shape[0] for shape in shapes if not np.isnan(shape[0])}
    if len(known) > 1:
        raise InputError(f"{', '.join(found)} have shapes {shapes}; they must be one length (N,)")
    first = next(array for array in found.values() if _is_dask_array(array))
    for name, array in found.items():
        if not np.isnan(array.shape[0]) and not np.isnan(first.shape[0]):
            in_blocks = _is_dask_array(array)
            found[name] = (
                array.rechunk(first.chunks) if in_blocks else da.from_array(array, first.chunks)
            )
        elif not _is_dask_array(array) or array.numblocks != first.numblocks:
            raise InputError(
                f"`{name}` has not the blocks of the others, whose lengths are unknown; pass Dask "
                "arrays of the same blocks, or call `compute_chunk_sizes`"
            )
    return list(found.values())


def _cells(column: Any) -> np.ndarray:
    """Return a column of a frame of pandas; of texts as objects."""
    return np.asarray(column, dtype=None if column.dtype.kind in "iufb" else object)


def _vector(name: str, array: Any) -> Any:
    """Return an argument as a vector, of Dask or NumPy; columns of frames as NumPy arrays."""
    if is_labelled(array):
        array = array.data
    if is_series(array):
        array = array.map_partitions(_cells, meta=_cells(array._meta), enforce_metadata=False)
    array = array if _is_dask_array(array) else np.asarray(array)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}; it must be one length (N,)")
    return array


# --- in memory, some blocks at a time ------------------------------------------------------


def computed_blocks(x: Any) -> Generator[Any, None, None]:
    """Give the rows of a Dask array or frame in memory, in order, block by block.

    Blocks are computed in groups: one for each core, or more small and fast blocks, up to
    `_SMALL_BYTES` and `_GROUP_SECONDS`; never more than fit in `_GROUP_BYTES` if all were as large
    as the largest so far. They are computed where x.compute() would compute them, and the next
    group while the caller works on this one. Each block is computed once; an input that several
    blocks share, at most once for each group.

    Close the generator if you stop early. Left to the garbage collector, it may wait for its thread
    while Dask holds a lock that this thread needs.
    """
    import dask

    parts = x.partitions if is_frame(x) else _whole_columns(x).blocks
    count = x.npartitions if is_frame(x) else x.numblocks[0]
    here = copy_context()  # the caller's client

    def computed(first: int, last: int) -> tuple[tuple[Any, ...], float]:
        began = time.perf_counter()
        found: tuple[Any, ...] = here.run(dask.compute, *_delayed(parts[first:last]))
        return found, (time.perf_counter() - began) / len(found)

    with ThreadPoolExecutor(1, "boxnn-blocks") as pool:
        first = most = 1
        ahead: Any = pool.submit(computed, 0, 1)
        while ahead is not None:
            (blocks, seconds), ahead = ahead.result(), None
            most = max(most, *map(_bytes, blocks))
            if first < count:
                small = min(_SMALL_BYTES // most, int(_GROUP_SECONDS / seconds))
                wanted = min(max(default_threads(), small), _GROUP_BYTES // most)
                last = min(count, first + max(1, wanted))
                ahead, first = pool.submit(computed, first, last), last
            yield from blocks


def _delayed(x: Any) -> Iterable[Any]:
    """Return the blocks of an array or frame as Dask's delayed objects."""
    delayed = x.to_delayed()
    return delayed if isinstance(delayed, list) else delayed.ravel()


def _bytes(block: Any) -> int:
    return int(block.nbytes if hasattr(block, "nbytes") else block.memory_usage().sum())
