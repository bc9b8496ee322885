"""Suite `kernel`: distances per second, against the byte arithmetic of this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from benchmarks.method import (
    Record,
    Samples,
    Settings,
    alternate,
    random_boxes,
    random_codes,
    record,
    sample_boxes,
)
from numba.extending import register_jitable

from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.boxes import Boxes
from boxnn_numba.distances import laid_out
from boxnn_numba.kernels import simd, simd_operations

WIDTHS = (1, 128, 255)
#: Features compared in one run (about 0.1 s on one core), and rows that one thread takes at once.
_WORK, _BLOCK_ROWS = 4e9, 64
_CLASSES = 10
#: Vectors of samples that the limit loop goes through: 4 rows, well inside the first-level cache.
_LIMIT_VECTORS, _LIMIT_PASSES = 16, 100_000


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
        x, (lower, upper) = random_codes(rng, rows, n), random_boxes(rng, m, n)
        # Laid out once: the layout is the same for every width.
        boxes = Boxes(lower, upper, np.sort(np.arange(m) % _CLASSES))
        for width in WIDTHS:
            case = f"W={width} n={n} M={m}"
            found += _codes_case(settings, case, x, boxes, width)
            settings.advance(f"kernel {case}")
    samples, boxes = real_problem(settings.samples, 2500)
    n, m = boxes.n_features, len(boxes)
    for width in WIDTHS:
        case = f"W={width} n={n} M={m} {settings.samples.name}"
        found += _codes_case(settings, case, samples, boxes, width)
    for dtype in (np.float32, np.float64):
        found += _float_case(settings, rng, dtype)
        settings.advance(f"kernel {np.dtype(dtype).name}")
    return found


def real_problem(samples: Samples, boxes: int) -> tuple[np.ndarray, Boxes]:
    """Return test samples, and boxes like those that training starts from."""
    lower, upper, labels = sample_boxes(samples, boxes)
    return samples.test[0][:2000], Boxes(lower, upper, labels, n_classes=samples.n_classes)


def class_distance_call(
    backend: CpuBackend, x: np.ndarray, boxes: Boxes, width: int | None = None
) -> Callable[[], None]:
    """Return a call of the class-distance kernel on boxes that were laid out before."""
    layout, out = laid_out(boxes, backend, "layout"), np.empty((len(x), boxes.n_classes), np.int32)
    return functools.partial(backend.class_distance, x, layout, width or boxes.width, out)


def _codes_case(
    settings: Settings, case: str, x: np.ndarray, boxes: Boxes, width: int
) -> list[Record]:
    m, n = len(boxes), boxes.n_features
    # One core needs fewer rows for the same time.
    first = x[: max(_BLOCK_ROWS, len(x) // settings.threads)]
    work = {"one": class_distance_call(get_backend("cpu", 1), first, boxes, width)}
    work["all"] = class_distance_call(get_backend("cpu", settings.threads), x, boxes, width)
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
# The regimes of `boxnn_numba.kernels.distances` on two boxes (lower, bound) that stay in
# registers; the bound is the upper side, or upper - lower where features are only counted.


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
    if simd_operations.TARGET == "plain":
        return None, 0.0
    rng = np.random.default_rng(1)
    x = random_codes(rng, 4, _LIMIT_VECTORS * simd_operations.LANES)
    lower, upper = random_boxes(rng, 2, simd_operations.LANES)
    bound = upper - lower if width == 1 else upper
    kernel, passes = limit_kernel(width), _LIMIT_PASSES

    def work(first: int, last: int) -> None:
        kernel(x, lower, bound, width, passes, np.empty((2, 4), np.int32))

    backend = get_backend("cpu", threads)
    features = threads * passes * 8 * x.shape[1]
    return lambda: backend.parallel(threads, 1, work), features


@register_jitable
def _count(sums, x, lower, bound, cap):
    return sums + simd.count_outside(x, lower, bound)


@register_jitable
def _capped(sums, x, lower, bound, cap):
    return simd.add_bytes(sums, simd.minimum(simd.excess(x, lower, bound), cap))


@register_jitable
def _uncapped(sums, x, lower, bound, cap):
    return simd.add_bytes(sums, simd.excess(x, lower, bound))


@register_jitable
def _no_count():
    return 0


@register_jitable
def _no_sums():
    return simd.no_sums()


@register_jitable
def _counts(c0, c1, c2, c3):
    return simd.counts(c0, c1, c2, c3)


@register_jitable
def _totals(s0, s1, s2, s3):
    return simd.totals(s0, s1, s2, s3)


@functools.cache
def limit_kernel(width: int) -> Callable[..., None]:
    """Compile the loop of a regime: tiles of 4 samples x 2 boxes, the boxes in registers.

    Samples are loaded from the first-level cache, so that no operation can move out of the loop;
    loads take other ports than the arithmetic.
    """
    begin, end = (_no_count, _counts) if width == 1 else (_no_sums, _totals)
    add = {1: _count, 255: _uncapped}.get(width, _capped)

    @numba.njit(nogil=True, error_model="numpy")
    def limit(x, lower, bound, width, passes, out):
        low0, low1 = simd.load(lower, 0, 0), simd.load(lower, 1, 0)
        high0, high1 = simd.load(bound, 0, 0), simd.load(bound, 1, 0)
        cap = simd.splat(np.uint8(width))
        s00, s01, s10, s11 = begin(), begin(), begin(), begin()
        s20, s21, s30, s31 = begin(), begin(), begin(), begin()
        for _ in range(passes):
            for k in range(0, x.shape[1], simd_operations.LANES):
                codes = simd.load(x, 0, k)
                s00, s01 = add(s00, codes, low0, high0, cap), add(s01, codes, low1, high1, cap)
                codes = simd.load(x, 1, k)
                s10, s11 = add(s10, codes, low0, high0, cap), add(s11, codes, low1, high1, cap)
                codes = simd.load(x, 2, k)
                s20, s21 = add(s20, codes, low0, high0, cap), add(s21, codes, low1, high1, cap)
                codes = simd.load(x, 3, k)
                s30, s31 = add(s30, codes, low0, high0, cap), add(s31, codes, low1, high1, cap)
        # Stored, so that nothing of it can be left out.
        simd.store_totals(out, 0, 0, end(s00, s10, s20, s30))
        simd.store_totals(out, 1, 0, end(s01, s11, s21, s31))

    return limit
