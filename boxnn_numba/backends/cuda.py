"""Kernels on an NVIDIA GPU, by numba-cuda.

(No module here is called ``boxnn_numba.cuda...``: numba-cuda's import hook would take it for
its own.)

Arrays that are on the GPU already (CuPy, PyTorch, Numba) are used where they are, on the
caller's stream. Arrays of the host go through two pinned buffers, chunk by chunk: while
one is computed the other is filled. Results are the integers of the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba import cuda

from boxnn_numba import validation
from boxnn_numba.backends import cuda_runtime as runtime
from boxnn_numba.backends.box_layout import UNREACHABLE
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.cuda_layout import (
    CudaTable,
    WordOrder,
    arranged,
    penalty_of,
    planes_of,
)
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import InputError
from boxnn_numba.kernels import cuda_distances
from boxnn_numba.kernels.cuda_distances import COLUMNS, ROWS, TILE_BOXES, TILE_SAMPLES

#: Part of the free memory that buffers may take, and bytes of a chunk beyond which none is faster.
_SHARE, _CHUNK_BYTES = 0.25, 64 * 2**20
#: Bytes of part distances that are kept until they are combined.
_HELD_BYTES = 256 * 2**20

Launch = Callable[[Any, Any, Any], None]


class CudaBackend:
    """Kernels on the GPU of this process.

    Parameters
    ----------
    cpu
        Does what has no kernel on the GPU.
    chunk
        Rows of a host array that are on the GPU at a time; None for what fits easily.

    Raises
    ------
    BackendError
        No driver, no GPU, or one that is too old.
    """

    name = "cuda"

    def __init__(self, cpu: CpuBackend, chunk: int | None = None) -> None:
        runtime.check_device()
        self._cpu, self.threads, self._chunk = cpu, cpu.threads, chunk
        self.parallel, self.float_distances = cpu.parallel, cpu.float_distances
        self._nothing = runtime.send(np.zeros(1, np.int32))
        self._buffers: tuple[Any, list[_Buffer]] | None = None
        self._lock = threading.Lock()

    # --- layout -------------------------------------------------------------------------

    def table(
        self, lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int
    ) -> CudaTable:
        """Return uint8 bounds (M, n) on the GPU, for `part_distances` at a width."""
        return self._upload(lower, upper, structure, width)

    def layout(
        self, lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int
    ) -> CudaTable:
        """Return uint8 bounds (M, n), sorted by class, on the GPU for `class_distance`."""
        if structure.is_plain:
            rows, labels = arranged(structure.offsets)
            return self._upload(lower[rows], upper[rows], structure.whole, width, labels=labels)
        owner = np.repeat(np.arange(len(structure.templates) - 1), np.diff(structure.templates))
        return self._upload(lower, upper, structure, width, rows=structure.rows, owner=owner)

    @staticmethod
    def _upload(
        lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int,
        **arrays: np.ndarray,
    ) -> CudaTable:  # fmt: skip
        penalty, order = penalty_of(width, structure), WordOrder.of(structure)
        planes = order.words(planes_of(lower, upper, width, penalty))
        with runtime.enough_memory(planes.nbytes, "use fewer boxes, or `device` cpu"):
            sent = {name: runtime.send(side.astype(np.int32)) for name, side in arrays.items()}
            columns, starts, kinds = map(runtime.send, (order.columns, order.starts, order.kinds))
            natural, planes = order.is_natural, runtime.send(planes)
            return CudaTable(penalty, planes, natural, columns, starts, kinds, **sent)

    # --- distances ----------------------------------------------------------------------

    def part_distances(self, x: Any, table: CudaTable, width: int, out: Any) -> None:
        """Write the int32 distances of uint8 codes (N, n) to all boxes to `out` (N, P * M).

        Distances in part 0 to all boxes come first, then those in part 1. Both are in the host's
        memory or both on the GPU, there C-contiguous.
        """

        def run(x: Any, target: Any, stream: Any) -> None:
            for words, _, rows in self._chunks(x, table, 0, stream):
                self._part_distances(words, table, width, target[rows], stream)

        self._run(x, out, run)

    def _part_distances(
        self, words: Any, table: CudaTable, width: int, out: Any, stream: Any
    ) -> Any:
        """Write part distances to `out` (rows, P * M) on the GPU; return it as (rows, P, M)."""
        rows, count = out.shape[0], table.planes.shape[1]
        parts = out.reshape(rows, out.shape[1] // count, count)
        blocks = -(-rows // TILE_SAMPLES) * -(-count // TILE_BOXES) * parts.shape[1]
        cuda_distances.pairwise(table.penalty)[blocks, (COLUMNS, ROWS), stream](
            words, self._nothing, np.int32(0), np.int32(rows), table.planes, table.starts,
            table.kinds, np.int32(2 * width), parts,
        )  # fmt: skip
        return parts

    def class_distance(self, x: Any, layout: CudaTable, width: int, out: Any) -> None:
        """Write the int32 distances to each class to `out` (N, K).

        Both are in the host's memory or both on the GPU, there C-contiguous.
        """
        factored, count = layout.labels is None, layout.planes.shape[1]
        held_columns = (layout.starts.shape[0] - 1) * count if factored else 0

        def run(x: Any, target: Any, stream: Any) -> None:
            flat = target.reshape(target.size)
            runtime.launch(
                cuda_distances.fill, target.size, flat, np.int32(UNREACHABLE), stream=stream
            )
            for words, held, rows in self._chunks(x, layout, held_columns, stream):
                if factored:
                    self._nearest_templates(words, layout, width, held, target[rows], stream)
                else:
                    self._nearest_boxes(words, layout, width, target[rows], stream)

        self._run(x, out, run)

    @staticmethod
    def _nearest_boxes(
        words: Any, layout: CudaTable, width: int, classes: Any, stream: Any
    ) -> None:
        blocks = -(-classes.shape[0] // TILE_SAMPLES) * (layout.planes.shape[1] // TILE_BOXES)
        cuda_distances.nearest(layout.penalty)[blocks, (COLUMNS, ROWS), stream](
            words, layout.planes, layout.labels, layout.kinds, np.int32(2 * width), classes
        )

    def _nearest_templates(
        self, words: Any, layout: CudaTable, width: int, held: Any, classes: Any, stream: Any
    ) -> None:
        parts = self._part_distances(words, layout, width, held, stream)
        count = classes.shape[0] * layout.owner.shape[0]
        runtime.launch(
            cuda_distances.combine, count, parts, layout.rows, layout.owner, classes, stream=stream
        )

    def _chunks(
        self, x: Any, table: CudaTable, columns: int, stream: Any
    ) -> Iterator[tuple[Any, Any, slice]]:
        """Yield samples on the GPU as words of a table, room (rows, columns) int32, and which rows.

        All rows come at once if that takes no new memory.
        """
        words = _as_words(x) if table.natural else None
        wide = 0 if words is not None else table.planes.shape[2]
        n, per_row = x.shape[0], 4 * (columns + wide)
        rows = max(1, n) if per_row == 0 else min(max(1, n), _fitting(per_row, _HELD_BYTES))
        with runtime.enough_memory(rows * per_row, "use `device` cpu"):
            held: Any = cuda.device_array((rows, columns), np.int32) if columns else None
            room: Any = cuda.device_array((rows, wide), np.uint32) if wide else None
        for first in range(0, n, rows):
            chunk = slice(first, min(n, first + rows))
            count = chunk.stop - first
            if words is None:
                codes = x.view(np.uint8) if x.dtype == np.uint32 else x
                runtime.launch(
                    cuda_distances.arrange, count * wide, codes[chunk], table.columns,
                    room[:count], stream=stream,
                )  # fmt: skip
            yield (
                room[:count] if words is None else words[chunk],
                None if held is None else held[:count],
                chunk,
            )

    # --- arrays of callers that are on the GPU ---------------------------------------------

    @staticmethod
    def checked(name: str, array: Any, dtype: Any, shape: tuple[int | None, ...]) -> Any:
        """Return an array as the kernels take it, or raise an InputError; nothing is copied."""
        return runtime.checked(name, array, dtype, shape, empty=True)

    @staticmethod
    def output(out: Any, like: Any, shape: tuple[int, int]) -> Any:
        """Return where int32 results go: `out` if it fits, else a new array of `like`'s kind."""
        if out is None:
            return runtime.new_like(like, shape, np.int32)
        if not hasattr(out, "__cuda_array_interface__") and not hasattr(out, "__cuda_ndarray__"):
            raise InputError("x is on a GPU and out is not; they must be in one memory")
        runtime.checked("out", out, np.int32, shape, empty=True)
        return out

    def box_distance(self, x: Any, lower: Any, upper: Any, width: float) -> Any:
        """Return what `boxnn_numba.box_distance` does, of arrays on the GPU."""
        kind = np.dtype(runtime.wrap(x).dtype)
        if kind not in (np.uint8, np.float32, np.float64):
            raise InputError(f"x is {kind} on the GPU; it must be uint8, float32 or float64")
        samples = runtime.checked("x", x, kind, (None, None), empty=True)
        low = runtime.checked("lower", lower, kind, (None, samples.shape[1]))
        high = runtime.checked("upper", upper, kind, tuple(low.shape))
        if kind == np.uint8:
            width = validation.width(width)  # type: ignore[arg-type]
        else:
            width = validation.real("width", width, 0, open_low=True)
        shape, line = (samples.shape[0], low.shape[0]), cuda_distances.LINE
        out = runtime.new_like(x, shape, np.int32 if kind == np.uint8 else kind)
        if shape[0]:
            grid = shape[0], -(-shape[1] // line)
            kernel = cuda_distances.box_distances[grid, line, runtime.current_stream()]
            cap = np.int32(width) if kind == np.uint8 else kind.type(width)
            kernel(samples, low, high, cap, runtime.wrap(out))
        return out

    @staticmethod
    def add_up(total: Any, more: Any) -> None:
        """Add to class distances (N, K) on the GPU others like it, or offsets (K,) of the host."""
        if isinstance(more, np.ndarray):
            more = runtime.send(np.minimum(more, UNREACHABLE).astype(np.int32)[None])
        runtime.launch(
            cuda_distances.add_up, total.size, runtime.wrap(total), runtime.wrap(more),
            stream=runtime.current_stream(),
        )  # fmt: skip

    def certified_radius(
        self, distance: Any, units: int, sound: bool, most: int
    ) -> tuple[Any, Any]:
        """Return predictions and radii, at most `most`, of (N, K) distances in units of 2 W g."""
        found = runtime.checked("class_distance", distance, np.int32, (None, None), empty=True)
        if found.shape[1] < 2:
            raise InputError("class_distance has one column; a radius needs two classes or more")
        prediction, radius = (
            runtime.new_like(distance, found.shape[:1], np.int32) for _ in range(2)
        )
        runtime.launch(
            cuda_distances.certify, found.shape[0], found, np.int32(units), np.int32(sound),
            np.int32(most), runtime.wrap(prediction), runtime.wrap(radius),
            stream=runtime.current_stream(),
        )  # fmt: skip
        return prediction, radius

    def radius_counts(self, prediction: Any, radius: Any, y: Any, top: int) -> np.ndarray:
        """Return how many samples on the GPU are right at each radius 0..top, larger ones last."""
        radii = runtime.checked("radius", radius, np.int32, (None,))
        guesses = runtime.checked("prediction", prediction, np.int32, tuple(radii.shape))
        truths = runtime.checked("y", y, runtime.wrap(y).dtype, tuple(radii.shape))
        counts, stream = runtime.send(np.zeros(top + 1, np.int32)), runtime.current_stream()
        runtime.launch(
            cuda_distances.count_radii, len(radii), guesses, radii, truths, counts, stream=stream
        )
        stream.synchronize()
        return counts.copy_to_host().astype(np.int64)

    @staticmethod
    def take(values: np.ndarray, index: Any) -> Any:
        """Return ``values[index]``: CuPy's if the index is and they are numbers, else NumPy's."""
        if type(index).__module__.partition(".")[0] == "cupy":
            import cupy

            return cupy.asarray(values)[index] if values.dtype.kind in "iu" else values[index.get()]
        return values[index.copy_to_host()]

    # --- chunks -------------------------------------------------------------------------

    def _run(self, x: Any, out: Any, run: Launch) -> None:
        """Compute `out` from x, where they are or through the buffers."""
        if isinstance(x, np.ndarray):
            with self._lock:
                self._stream(x, out, run)
        else:
            run(runtime.wrap(x), runtime.wrap(out), runtime.current_stream())

    def _stream(self, x: np.ndarray, out: np.ndarray, run: Launch) -> None:
        buffers = self._buffers_for(len(x), x.shape[1], out.shape[1])
        rows = len(buffers[0].codes)
        for index, first in enumerate(range(0, len(x), rows)):
            buffer = buffers[index % 2]
            buffer.collect()
            buffer.compute(x[first : first + rows], out[first : first + rows], run)
        for buffer in buffers:
            buffer.collect()

    def _buffers_for(self, n: int, features: int, columns: int) -> list[_Buffer]:
        """Return two buffers for chunks of n samples: those of the last call if they fit."""
        per_row = -(-features // 4) * 4 + 4 * columns
        held = self._buffers
        if held is not None and held[0][1:] == (features, columns):
            wanted = min(n, self._chunk) if self._chunk is not None else n
            if held[0][0] >= min(wanted, _fitting(2 * per_row)):
                return held[1]
        self._buffers = None
        fits = max(1, int(min(runtime.free_memory() * 0.9, 2.0**62)) // (2 * per_row))
        rows = min(n, self._chunk if self._chunk is not None else _fitting(2 * per_row))
        advice = f"pass `chunk` {fits}" if fits < rows else "use `device` cpu"
        with runtime.enough_memory(2 * rows * per_row, advice):
            made = [_Buffer(rows, features, columns) for _ in range(2)]
        self._buffers = (rows, features, columns), made
        return made


def _fitting(per_row: int, most: int = 2 * _CHUNK_BYTES) -> int:
    """Return how many rows, at least one, fit in `most` bytes and in a share of free memory."""
    return max(1, int(min(_SHARE * runtime.free_memory(), most)) // per_row)


def _as_words(x: Any) -> Any:
    """Return codes on the GPU as words of four where rows and address allow it, else None."""
    if x.dtype == np.uint32:
        return x
    return x.view(np.uint32) if x.shape[1] % 4 == 0 and _address(x) % 4 == 0 else None


def _address(x: Any) -> int:
    interface = getattr(x, "__cuda_array_interface__", None)
    return 0 if interface is None else int(interface["data"][0])


class _Buffer:
    """A chunk on its way: pinned memory of the host, memory of the GPU, and a stream."""

    def __init__(self, rows: int, features: int, columns: int) -> None:
        width = -(-features // 4) * 4
        self.codes = cuda.pinned_array((rows, width), np.uint8)
        self.codes[:] = 0  # the padding stays so
        self.result = cuda.pinned_array((rows, columns), np.int32)
        self._words = cuda.device_array((rows, width // 4), np.uint32)
        self._out = cuda.device_array((rows, columns), np.int32)
        self._stream = cuda.stream()
        self._target: np.ndarray | None = None

    def compute(self, x: np.ndarray, target: np.ndarray, run: Launch) -> None:
        """Begin to compute a chunk; `collect` writes it to `target`."""
        rows = len(x)
        self.codes[:rows, : x.shape[1]] = x
        words, out = self._words[:rows], self._out[:rows]
        words.copy_to_device(self.codes.view(np.uint32)[:rows], stream=self._stream)
        run(words, out, self._stream)
        out.copy_to_host(self.result[:rows], stream=self._stream)
        self._target = target

    def collect(self) -> None:
        """Wait for the chunk that was begun, if any, and write its result."""
        if self._target is not None:
            self._stream.synchronize()
            self._target[:] = self.result[: len(self._target)]
            self._target = None
