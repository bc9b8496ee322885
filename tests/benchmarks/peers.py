"""Suite `peers`: the same distances by what a user would pick instead.

Each formulation imports its library only when it is used; absent libraries are listed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from benchmarks.method import (
    Record,
    Settings,
    absent,
    alternate,
    random_boxes,
    random_codes,
    record,
)

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import BackendError

#: Rows that our kernel gets in a run, and peers by their speed (each is compared per pair).
_ROWS, _SLOW_ROWS, _FAST_ROWS = 1024, 16, 64
Run = Callable[[], Any]


@dataclass(frozen=True)
class Problem:
    """Codes (N, n), bounds (M, n) and a width; degenerate where lower == upper."""

    x: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    width: int
    threads: int

    @property
    def kind(self) -> str:
        """Which formulations apply: ``"points"`` (lower is upper, W = 1), ``"cone"``, ``"any"``."""
        if self.width == 255:
            return "cone"
        return "points" if self.width == 1 and (self.lower is self.upper) else "any"


@dataclass(frozen=True)
class Peer:
    """One formulation.

    Attributes
    ----------
    name, library
        What it is, and what it needs (a module's name).
    kinds
        The kinds of problem that it can express.
    rows
        How many samples it is given.
    make
        Returns a call that computes the distances of the problem's samples in its own type.
    slow_to_compile
        Left out of quick runs.
    per_feature
        Its result is a mean over features.
    """

    name: str
    library: str
    kinds: tuple[str, ...]
    rows: int
    make: Callable[[Problem], Run]
    slow_to_compile: bool = False
    per_feature: bool = False


def _floats(problem: Problem, dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
    return tuple(part.astype(dtype) for part in (problem.x, problem.lower, problem.upper))


def _numpy_broadcast(problem: Problem) -> Run:
    x, lower, upper = (part.astype(np.int16) for part in (problem.x, problem.lower, problem.upper))
    width = np.int16(problem.width)

    def run() -> np.ndarray:
        outside = np.maximum(lower - x[:, None], x[:, None] - upper)
        return np.clip(outside, 0, width).sum(axis=2, dtype=np.int32)

    return run


def _cone_of_sums(to_lower: Any, to_upper: Any, spans: Any) -> Any:
    # |x - a| + |x - b| - (b - a) is twice the excess, for x inside and outside.
    return (to_lower + to_upper - spans) * 0.5


def _scipy_cityblock(problem: Problem) -> Run:
    from scipy.spatial.distance import cdist

    x, lower, upper = _floats(problem)
    spans = (upper - lower).sum(axis=1)
    return lambda: _cone_of_sums(cdist(x, lower, "cityblock"), cdist(x, upper, "cityblock"), spans)


def _scipy_hamming(problem: Problem) -> Run:
    from scipy.spatial.distance import cdist

    x, lower, _ = _floats(problem)
    return functools.partial(cdist, x, lower, "hamming")


def _sklearn_pairwise(problem: Problem) -> Run:
    from sklearn.metrics import pairwise_distances

    x, lower, _ = _floats(problem)
    return functools.partial(pairwise_distances, x, lower, metric="hamming", n_jobs=problem.threads)


def _sklearn_metric(problem: Problem) -> Run:
    from sklearn.metrics import DistanceMetric

    x, lower, _ = _floats(problem)
    return functools.partial(DistanceMetric.get_metric("hamming").pairwise, x, lower)


def _torch_parts(problem: Problem) -> tuple[Any, ...]:
    import torch

    torch.set_num_threads(problem.threads)
    width = torch.tensor(float(problem.width))
    return (*(torch.from_numpy(part) for part in _floats(problem, np.float32)), width)


def _torch_outside(x: Any, lower: Any, upper: Any, width: Any) -> Any:
    import torch

    outside = torch.maximum(lower - x[:, None], x[:, None] - upper)
    return torch.minimum(torch.relu(outside), width).sum(-1)


def _torch_broadcast(problem: Problem) -> Run:
    import torch

    x, *boxes = _torch_parts(problem)
    # Pieces of four samples: larger temporaries leave the cache and are slower.
    pieces = x.split(4)
    return lambda: torch.cat([_torch_outside(piece, *boxes) for piece in pieces])


def _torch_cdist(problem: Problem) -> Run:
    import torch

    x, lower, upper, _ = _torch_parts(problem)
    spans = (upper - lower).sum(1)
    return lambda: _cone_of_sums(torch.cdist(x, lower, p=1.0), torch.cdist(x, upper, p=1.0), spans)


def _torch_cdist_points(problem: Problem) -> Run:
    import torch

    x, lower, _, _ = _torch_parts(problem)
    return functools.partial(torch.cdist, x, lower, p=0.0)


@functools.cache
def _compiled_outside() -> Any:
    import torch

    return torch.compile(_torch_outside, dynamic=False)


def _torch_compile(problem: Problem) -> Run:
    import torch

    parts = _torch_parts(problem)
    run = functools.partial(_compiled_outside(), *parts)
    try:
        with torch.no_grad():
            run()
    except (RuntimeError, OSError, ImportError) as error:  # no C++ compiler, no Python headers
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BackendError(f"does not work here: {reason[0][:80]}") from error
    return run


@functools.cache
def _jitted() -> Any:
    import jax
    import jax.numpy as jnp

    def distances(x: Any, lower: Any, upper: Any, width: Any) -> Any:
        outside = jnp.maximum(lower - x[:, None], x[:, None] - upper)
        return jnp.clip(outside, 0, width).sum(-1)

    return jax.jit(distances)


def _jax_jit(problem: Problem, dtype: Any) -> Run:
    import jax

    # JAX has no setting for its threads on a CPU; it takes all cores.
    parts = [jax.device_put(part) for part in _floats(problem, dtype)]
    width = dtype(problem.width)
    return lambda: _jitted()(*parts, width).block_until_ready()


PEERS = (
    Peer("NumPy broadcast", "numpy", ("any", "cone"), _SLOW_ROWS, _numpy_broadcast),
    Peer("SciPy cdist cityblock x2", "scipy", ("cone",), _FAST_ROWS, _scipy_cityblock),
    Peer("SciPy cdist hamming", "scipy", ("points",), _FAST_ROWS, _scipy_hamming, per_feature=True),
    Peer(
        "scikit-learn pairwise hamming", "sklearn", ("points",), 4 * _FAST_ROWS, _sklearn_pairwise,
        per_feature=True,
    ),
    Peer(
        "scikit-learn DistanceMetric hamming", "sklearn", ("points",), _FAST_ROWS, _sklearn_metric,
        per_feature=True,
    ),
    Peer("torch broadcast", "torch", ("any", "cone"), _SLOW_ROWS, _torch_broadcast),
    Peer("torch cdist(p=1) x2", "torch", ("cone",), _FAST_ROWS, _torch_cdist),
    Peer("torch cdist(p=0)", "torch", ("points",), _FAST_ROWS, _torch_cdist_points),
    Peer(
        "torch.compile broadcast", "torch", ("any", "cone"), _FAST_ROWS, _torch_compile,
        slow_to_compile=True,
    ),
    Peer(
        "JAX jit float32", "jax", ("any", "cone", "points"), _FAST_ROWS,
        functools.partial(_jax_jit, dtype=np.float32),
    ),
    Peer(
        "JAX jit int32", "jax", ("any", "cone"), _FAST_ROWS,
        functools.partial(_jax_jit, dtype=np.int32),
    ),
)  # fmt: skip


# --- the suite ----------------------------------------------------------------------------


def peers_suite(settings: Settings, n: int = 784, boxes: int = 2500) -> list[Record]:
    """Compare the (N, M) matrix of hard distances with every peer that is installed.

    Parameters
    ----------
    settings
        Threads, rounds.
    n, boxes
        Features and boxes.

    Returns
    -------
    list of dict
        Per case and peer: throughput, and the ratio of ours to it in the same round.
    """
    rng = np.random.default_rng(0)
    x = random_codes(rng, _ROWS, n)
    lower, upper = random_boxes(rng, boxes, n)
    # Points near the samples in some features, so that a count is not always n.
    points = np.where(rng.random((boxes, n)) < 0.5, x[np.arange(boxes) % len(x)], lower)
    cases = {
        "W=255 boxes": (lower, upper, 255),
        "W=128 boxes": (lower, upper, 128),
        "W=1 boxes": (lower, upper, 1),
        "W=1 points": (points, points, 1),
    }
    if settings.quick:
        del cases["W=128 boxes"]
    found = []
    for case, (low, high, width) in cases.items():
        found += _compare(settings, case, Problem(x, low, high, width, settings.threads))
        settings.advance(f"peers {case}")
    return found


def _compare(settings: Settings, case: str, problem: Problem) -> list[Record]:
    notes: list[Record] = []
    work: dict[str, Run] = {}
    rows: dict[str, int] = {}
    results: dict[str, np.ndarray] = {}
    ours = {"1 core": 1, f"{problem.threads} cores": problem.threads}
    for name, threads in ours.items():
        work[name], results[name] = _our_call(problem, threads)
        rows[name] = len(problem.x)
    work["1 core"]()
    for peer in PEERS:
        if problem.kind not in peer.kinds:
            continue
        run, why = _prepare(peer, problem, settings.quick)
        if run is None:
            notes.append(absent(case, peer.name, why))
            continue
        truth = results["1 core"][: peer.rows]
        scale = problem.x.shape[1] if peer.per_feature else 1
        if not np.array_equal(np.rint(np.asarray(run()) * scale).astype(np.int32), truth):
            notes.append(absent(case, peer.name, "gives other distances; not compared"))
            continue
        work[peer.name], rows[peer.name] = run, peer.rows
    times = alternate(work, settings.rounds)
    m = len(problem.lower)
    rates = {name: rows[name] * m / seconds for name, seconds in times.items()}
    found = [record(case, name, "Mpairs/s", rate / 1e6) for name, rate in rates.items()]
    for name in rates:
        if name not in ours:
            for label in ours:
                ratio = rates[label] / rates[name]
                found.append(record(case, f"ours on {label} / {name}", "times", ratio))
    return found + notes


def _our_call(problem: Problem, threads: int) -> tuple[Run, np.ndarray]:
    backend = get_backend("cpu", threads)
    plain = Structure.plain(np.array([0, len(problem.lower)]), problem.lower.shape[1])
    table = backend.table(problem.lower, problem.upper, plain, problem.width)
    out = np.empty((len(problem.x), len(problem.lower)), np.int32)

    def run() -> None:
        backend.part_distances(problem.x, table, problem.width, out)

    return run, out


def _prepare(peer: Peer, problem: Problem, quick: bool) -> tuple[Run | None, str]:
    if find_spec(peer.library) is None:
        return None, f"{peer.library} is not installed"
    if quick and peer.slow_to_compile:
        return None, "left out by --quick"
    part = Problem(
        problem.x[: peer.rows], problem.lower, problem.upper, problem.width, problem.threads
    )
    try:
        return peer.make(part), ""
    except BackendError as error:
        return None, str(error)
