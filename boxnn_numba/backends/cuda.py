"""Kernels on an NVIDIA GPU, by numba-cuda.

(No module here is called ``boxnn_numba.cuda...``: numba-cuda's import hook would take it for
its own.)

Arrays that are on the GPU already (CuPy, PyTorch, Numba) are used where they are, on the
caller's stream. Arrays of the host go through two pinned buffers, chunk by chunk: while
one is computed the other is filled. Results are the integers of the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from boxnn_numba import validation
from boxnn_numba.backends import cuda_runtime as runtime
from boxnn_numba.backends.box_layout import UNREACHABLE
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.cuda_layout import CudaTable, arranged, penalty_of, planes_of
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.kernels import cuda_distances
from boxnn_numba.kernels.cuda_distances import COLUMNS, ROWS, TILE_BOXES, TILE_SAMPLES

#: Part of the free memory that buffers may take, and bytes of a chunk beyond which none is faster.
_SHARE, _CHUNK_BYTES = 0.25, 64 * 2**20

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
        _need_plain(structure.n_parts > 1 or structure.is_grouped)
        return self._upload(planes_of(lower, upper, width), None)

    def layout(
        self, lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int
    ) -> CudaTable:
        """Return uint8 bounds (M, n), sorted by class, on the GPU for `class_distance`."""
        _need_plain(not structure.is_plain or structure.is_grouped)
        rows, labels = arranged(structure.offsets)
        return self._upload(planes_of(lower[rows], upper[rows], width), labels)

    @staticmethod
    def _upload(planes: np.ndarray, labels: np.ndarray | None) -> CudaTable:
        with runtime.enough_memory(planes.nbytes, "use fewer boxes, or `device` cpu"):
            on_device = None if labels is None else runtime.send(labels)
            return CudaTable(runtime.send(planes), on_device)

    # --- distances ----------------------------------------------------------------------

    def part_distances(self, x: Any, table: CudaTable, width: int, out: Any) -> None:
        """Write the int32 distances of uint8 codes (N, n) to all boxes to `out` (N, P * M).

        Both are in the host's memory or both on the GPU, there C-contiguous.
        """

        def run(x: Any, target: Any, stream: Any) -> None:
            words, kind = _as_words(x)
            kernel = cuda_distances.pairwise(penalty_of(width), kind)
            rows = target.shape[0]
            blocks = -(-rows // TILE_SAMPLES) * -(-table.planes.shape[1] // TILE_BOXES)
            kernel[blocks, (COLUMNS, ROWS), stream](
                words, self._nothing, np.int32(0), np.int32(rows), table.planes, target
            )

        self._run(x, out, run)

    def class_distance(self, x: Any, layout: CudaTable, width: int, out: Any) -> None:
        """Write the int32 distances to the nearest box of each class to `out` (N, K).

        Both are in the host's memory or both on the GPU, there C-contiguous.
        """

        def run(x: Any, target: Any, stream: Any) -> None:
            words, kind = _as_words(x)
            flat = target.reshape(target.size)
            runtime.launch(
                cuda_distances.fill, target.size, flat, np.int32(UNREACHABLE), stream=stream
            )
            kernel = cuda_distances.nearest(penalty_of(width), kind)
            blocks = -(-target.shape[0] // TILE_SAMPLES) * (layout.planes.shape[1] // TILE_BOXES)
            kernel[blocks, (COLUMNS, ROWS), stream](words, layout.planes, layout.labels, target)

        self._run(x, out, run)

    # --- arrays of callers that are on the GPU ---------------------------------------------

    @staticmethod
    def checked(name: str, array: Any, dtype: Any, shape: tuple[int | None, ...]) -> Any:
        """Return an array as the kernels take it, or raise an InputError; nothing is copied."""
        return runtime.checked(name, array, dtype, shape)

    @staticmethod
    def output(out: Any, like: Any, shape: tuple[int, int]) -> Any:
        """Return where int32 results go: `out` if it fits, else a new array of `like`'s kind."""
        if out is None:
            return runtime.new_like(like, shape, np.int32)
        if not hasattr(out, "__cuda_array_interface__") and not hasattr(out, "__cuda_ndarray__"):
            raise InputError("x is on a GPU and out is not; they must be in one memory")
        runtime.checked("out", out, np.int32, shape)
        return out

    def box_distance(self, x: Any, lower: Any, upper: Any, width: float) -> Any:
        """Return what `boxnn_numba.box_distance` does, of arrays on the GPU."""
        kind = np.dtype(runtime.wrap(x).dtype)
        if kind not in (np.uint8, np.float32, np.float64):
            raise InputError(f"x is {kind} on the GPU; it must be uint8, float32 or float64")
        samples = runtime.checked("x", x, kind, (None, None))
        low = runtime.checked("lower", lower, kind, (None, samples.shape[1]))
        high = runtime.checked("upper", upper, kind, tuple(low.shape))
        if kind == np.uint8:
            width = validation.width(width)  # type: ignore[arg-type]
        else:
            width = validation.real("width", width, 0, open_low=True)
        shape, line = (samples.shape[0], low.shape[0]), cuda_distances.LINE
        out = runtime.new_like(x, shape, np.int32 if kind == np.uint8 else kind)
        grid = shape[0], -(-shape[1] // line)
        kernel = cuda_distances.box_distances[grid, line, runtime.current_stream()]
        cap = np.int32(width) if kind == np.uint8 else kind.type(width)
        kernel(samples, low, high, cap, runtime.wrap(out))
        return out

    def certified_radius(self, distance: Any, units: int, sound: bool) -> tuple[Any, Any]:
        """Return predictions and radii of class distances (N, K) in `units` of 2 W g."""
        found = runtime.checked("class_distance", distance, np.int32, (None, None))
        if found.shape[1] < 2:
            raise InputError("class_distance has one column; a radius needs two classes or more")
        prediction, radius = (
            runtime.new_like(distance, found.shape[:1], np.int32) for _ in range(2)
        )
        runtime.launch(
            cuda_distances.certify, found.shape[0], found, np.int32(units), np.int32(sound),
            runtime.wrap(prediction), runtime.wrap(radius), stream=runtime.current_stream(),
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
            if held[0][0] >= min(wanted, self._fitting(per_row)):
                return held[1]
        self._buffers = None
        fits = max(1, int(min(runtime.free_memory() * 0.9, 2.0**62)) // (2 * per_row))
        rows = min(n, self._chunk if self._chunk is not None else self._fitting(per_row))
        advice = f"pass `chunk` {fits}" if fits < rows else "use `device` cpu"
        with runtime.enough_memory(2 * rows * per_row, advice):
            made = [_Buffer(rows, features, columns) for _ in range(2)]
        self._buffers = (rows, features, columns), made
        return made

    @staticmethod
    def _fitting(per_row: int) -> int:
        most = min(_SHARE * runtime.free_memory(), 2.0 * _CHUNK_BYTES)
        return max(1, int(most) // (2 * per_row))


def _need_plain(structured: bool) -> None:
    if structured:
        raise OptionError("boxes with parts or groups are computed on CPUs; use `device` cpu")


def _as_words(x: Any) -> tuple[Any, bool]:
    """Return codes on the GPU as words where rows and address allow it, and whether they do."""
    if x.dtype == np.uint32:
        return x, True
    if x.shape[1] % 4 == 0 and _address(x) % 4 == 0:
        return x.view(np.uint32), True
    return x, False


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
