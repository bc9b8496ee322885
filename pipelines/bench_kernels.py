"""Suite `kernel`: distances per second, against what this machine can do with bytes in registers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from boxnn_numba.backend import CpuBackend, get_backend
from boxnn_numba.options import TrainingOptions
from boxnn_numba.pipelines.bench_method import (
    Record,
    Samples,
    Settings,
    alternate,
    random_boxes,
    random_codes,
    record,
)
from boxnn_numba.training import initial_boxes

WIDTHS = (1, 128, 255)
#: Features compared in one run (about 0.1 s on one core), and rows that one thread takes at once.
_WORK, _BLOCK_ROWS = 4e9, 64
_CLASSES = 10
#: Vectors of samples that the limit loop goes through: 4 rows, well inside the first-level cache.
_LIMIT_VECTORS = 16


def kernel_suite(settings: Settings) -> list[Record]:
    """Measure `class_distance` on codes and `box_distance` on floats.

    Returns
    -------
    list of dict
        Per case: Mpairs/s on one core and on all, features/s per core, and the fraction of the
        machine's own limit, which the same ops reach on data in registers in the same rounds.
    """
    sizes = [(n, m) for n in (64, 784) for m in (100, 2500)]
    if not settings.quick:
        sizes = [(n, m) for n in (64, 784, 3072, 12288) for m in (100, 2500, 25000)]
    rng = np.random.default_rng(0)
    found = []
    for n, m in sizes:
        rows = max(_BLOCK_ROWS * settings.threads, int(_WORK / (n * m)) // 64 * 64)
        if settings.quick:
            rows = max(_BLOCK_ROWS * settings.threads, rows // 4)
        x, boxes = random_codes(rng, rows, n), random_boxes(rng, m, n)
        labels = np.sort(np.arange(m, dtype=np.int32) % _CLASSES)
        for width in WIDTHS:
            case = f"W={width} n={n} M={m}"
            found += _codes_case(settings, case, x, (*boxes, labels), width)
            settings.advance(f"kernel {case}")
    samples, boxes = real_problem(settings.samples, 2500)
    for width in WIDTHS:
        n, m = boxes[0].shape[::-1]
        case = f"W={width} n={n} M={m} {settings.samples.name}"
        found += _codes_case(settings, case, samples, boxes, width)
    for dtype in (np.float32, np.float64):
        found += _float_case(settings, rng, dtype)
        settings.advance(f"kernel {np.dtype(dtype).name}")
    return found


def real_problem(
    samples: Samples, boxes: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return test samples, and the boxes (lower, upper, labels) that training starts from."""
    x, y = samples.train
    fewest = int(np.bincount(y, minlength=samples.n_classes).min()) * samples.n_classes
    options = TrainingOptions(boxes=min(boxes, fewest))
    masters, labels = initial_boxes(x, y, samples.n_classes, options)
    lower, upper = (np.rint(np.clip(side, 0, 255)).astype(np.uint8) for side in masters)
    return samples.test[0][:2000], (lower, upper, labels)


def class_distance_call(
    backend: CpuBackend,
    x: np.ndarray,
    boxes: tuple[np.ndarray, np.ndarray, np.ndarray],
    width: int,
    n_classes: int = _CLASSES,
) -> Callable[[], None]:
    """Return a call of the class-distance kernel on samples and boxes that are laid out before."""
    lower, upper, labels = boxes
    rows, table = backend.samples(x), backend.boxes(lower, upper)
    out = np.full((len(x), n_classes), np.iinfo(np.int32).max, np.int32)
    return functools.partial(backend.class_distance, rows, len(x), table, labels, width, out)


def _codes_case(
    settings: Settings,
    case: str,
    x: np.ndarray,
    boxes: tuple[np.ndarray, np.ndarray, np.ndarray],
    width: int,
) -> list[Record]:
    m, n = boxes[0].shape
    classes = int(boxes[2].max()) + 1
    # One core needs fewer rows for the same time.
    first = x[: max(_BLOCK_ROWS, len(x) // settings.threads)]
    work = {"one": class_distance_call(get_backend("cpu", 1), first, boxes, width, classes)}
    work["all"] = class_distance_call(
        get_backend("cpu", settings.threads), x, boxes, width, classes
    )
    limits = {name: limit_call(width, t) for name, t in (("one", 1), ("all", settings.threads))}
    work |= {f"limit {name}": call for name, (call, _) in limits.items() if call is not None}
    heavy = len(first) * m * n > 3 * _WORK
    times = alternate(work, 3 if heavy else settings.rounds)
    rate_one, rate_all = len(first) * m / times["one"], len(x) * m / times["all"]
    found = [
        record(case, "1 core", "Mpairs/s", rate_one / 1e6),
        record(case, "1 core per feature", "Gfeatures/s", rate_one * n / 1e9),
        record(case, f"{settings.threads} cores", "Mpairs/s", rate_all / 1e6),
        record(case, "scaling", "of linear", rate_all / rate_one / settings.threads),
    ]
    for name, rate in (("one", rate_one), ("all", rate_all)):
        call, features = limits[name]
        if call is not None:
            share = rate * n * times[f"limit {name}"] / features
            label = "1 core" if name == "one" else f"{settings.threads} cores"
            found.append(record(case, f"{label} of limit", "of limit", share))
    if limits["one"][0] is not None:
        limit = limits["one"][1] / times["limit one"] / 1e9
        found.append(record(case, "limit, 1 core", "Gfeatures/s", limit))
    return found


def _float_case(settings: Settings, rng: np.random.Generator, dtype: Any) -> list[Record]:
    n, m, rows = 784, 2500, (128 if settings.quick else 512)
    x = random_codes(rng, rows, n).astype(dtype)
    lower, upper = (side.astype(dtype) for side in random_boxes(rng, m, n))
    case = f"{np.dtype(dtype).name} n={n} M={m}"
    work = {}
    for name, threads in (("1 core", 1), (f"{settings.threads} cores", settings.threads)):
        backend = get_backend("cpu", threads)
        work[name] = functools.partial(backend.float_distances, x, lower, upper, 128.0)
    times = alternate(work, settings.rounds)
    return [record(case, name, "Mpairs/s", rows * m / t / 1e6) for name, t in times.items()]


# --- the machine's own limit --------------------------------------------------------------


def limit_call(width: int, threads: int) -> tuple[Callable[[], Any] | None, float]:
    """Return a call that does a regime's byte operations on data in registers.

    Parameters
    ----------
    width
        1 counts, 255 sums without a cap, others sum with one.
    threads
        Threads that do it at once.

    Returns
    -------
    call, features
        The call and the number of features it compares; None where there are no vectors.
    """
    from boxnn_numba.kernels import simd

    if simd.TARGET == "plain":
        return None, 0.0
    rng = np.random.default_rng(1)
    x = random_codes(rng, 4, _LIMIT_VECTORS * simd.LANES)
    lower, upper = random_boxes(rng, 2, simd.LANES)
    kernel, passes = _limit_kernel(width), 40_000
    features = threads * passes * 8 * x.shape[1]
    if threads == 1:
        return functools.partial(kernel, x, lower, upper, width, passes), features
    pool = ThreadPoolExecutor(threads)

    def call() -> list[int]:
        futures = [pool.submit(kernel, x, lower, upper, width, passes) for _ in range(threads)]
        return [future.result() for future in futures]

    return call, features


@functools.cache
def _limit_kernel(width: int) -> Callable[..., int]:
    """Compile the loop of a regime: a tile of 4 samples x 2 boxes, the boxes in registers.

    The samples come from the first-level cache, so that no operation can be moved
    out of the loop; loads go to other ports than the arithmetic.
    """
    import numba

    begin, add, end = _regime(width)
    lanes = _lanes()

    @numba.njit(nogil=True, error_model="numpy")
    def limit(x, lower, upper, width, passes):  # type: ignore[no-untyped-def]
        low0, low1, high0, high1, cap = _box_vectors(lower, upper, width)
        s00, s01, s10, s11 = begin(), begin(), begin(), begin()
        s20, s21, s30, s31 = begin(), begin(), begin(), begin()
        for _ in range(passes):
            for k in range(0, x.shape[1], lanes):
                codes = _load(x, 0, k)
                s00, s01 = add(s00, codes, low0, high0, cap), add(s01, codes, low1, high1, cap)
                codes = _load(x, 1, k)
                s10, s11 = add(s10, codes, low0, high0, cap), add(s11, codes, low1, high1, cap)
                codes = _load(x, 2, k)
                s20, s21 = add(s20, codes, low0, high0, cap), add(s21, codes, low1, high1, cap)
                codes = _load(x, 3, k)
                s30, s31 = add(s30, codes, low0, high0, cap), add(s31, codes, low1, high1, cap)
        total = end(s00) + end(s01) + end(s10) + end(s11)
        return total + end(s20) + end(s21) + end(s30) + end(s31)

    _load, _box_vectors = _loads()
    return limit  # type: ignore[no-any-return]


def _lanes() -> int:
    from boxnn_numba.kernels import simd

    return simd.LANES


def _loads() -> tuple[Any, Any]:
    from numba.extending import register_jitable

    from boxnn_numba.kernels import simd

    @register_jitable
    def box_vectors(lower, upper, width):  # type: ignore[no-untyped-def]
        return (
            simd.load(lower, 0, 0), simd.load(lower, 1, 0),
            simd.load(upper, 0, 0), simd.load(upper, 1, 0), simd.splat(np.uint8(width)),
        )  # fmt: skip

    return simd.load, box_vectors


def _regime(width: int) -> tuple[Any, Any, Any]:
    from boxnn_numba.kernels import cpu

    if width == 1:
        return cpu._count_begin, cpu._count_add, cpu._count_end
    add = cpu._uncapped_add if width == 255 else cpu._capped_add
    return cpu._sum_begin, add, cpu._sum_end
