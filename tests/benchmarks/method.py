"""The method of `bench.py`: runs that alternate, medians with quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.paths import Name
from boxnn_numba.data.sources.catalogue import BUNDLED_SAMPLE
from boxnn_numba.errors import DataError

#: Pause between runs: peers' thread pools spin for a while after their last task.
_PAUSE = 0.02
#: Half a side of the boxes that are measured, in codes (the default --alpha).
HALF_SIDE = 25
Record = dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """Codes and class indices of a data set, split as it comes."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    n_classes: int


@dataclass(frozen=True)
class Settings:
    """What a suite is told.

    Attributes
    ----------
    threads
        Threads of the runs "on all cores".
    quick
        Fewer sizes and rounds, no peers that compile for long.
    samples
        The data that training and certification are measured on.
    advance
        Called with a word on every step that is done.
    """

    threads: int
    quick: bool
    samples: Samples
    advance: Callable[[str], None] = field(default=lambda step: None)

    @property
    def rounds(self) -> int:
        """How often every candidate runs."""
        return 3 if self.quick else 7


def load_samples(data: Name | None) -> Samples:
    """Return the data set that is measured on.

    Parameters
    ----------
    data
        A dataset of codes made by ``boxnn data ingest``; the bundled MNIST sample by default.

    Raises
    ------
    DataError
        The dataset cannot be read or does not hold codes.
    """
    if data is None:
        with np.load(BUNDLED_SAMPLE, allow_pickle=False) as file:
            x, y, x_test, y_test = (file[key] for key in ("x", "y", "x_test", "y_test"))
        train = x.reshape(len(x), -1), y.astype(np.int32)
        test = x_test.reshape(len(x_test), -1), y_test.astype(np.int32)
        return Samples("mnist-sample", train, test, int(y.max()) + 1)
    dataset = open_dataset(data)
    if not dataset.is_codes or min(dataset.n_rows(split) for split in dataset.splits) == 0:
        raise DataError(
            f"{data} must hold codes and samples in both splits to be measured on; "
            "ingest an image data set, e.g. boxnn data ingest mnist --out mnist.zarr"
        )
    train, test = dataset.read("train"), dataset.read("test")
    return Samples(dataset.name, train, test, len(dataset.classes))


def repeat_rows(x: np.ndarray, y: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n rows: the first ones, or all of them several times over."""
    rows = np.arange(n) % len(x)
    return np.ascontiguousarray(x[rows]), np.ascontiguousarray(y[rows])


def random_codes(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return uniform codes (rows, columns); beyond 64 MiB they repeat."""
    size = rows * columns
    # A length that is no multiple of a row keeps repeated rows different.
    block = rng.integers(0, 256, min(size, 2**26 + 1), dtype=np.uint8)
    return np.resize(block, (rows, columns))


def random_boxes(
    rng: np.random.Generator, boxes: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper codes (boxes, columns) around uniform centres."""
    centres = random_codes(rng, boxes, columns)
    half = np.uint8(HALF_SIDE)
    return centres - np.minimum(centres, half), centres + np.minimum(~centres, half)


def sample_boxes(samples: Samples, boxes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes around training samples, evenly over the classes and sorted by them.

    Returns
    -------
    lower, upper, labels
        (boxes, n) uint8 twice, and (boxes,) int32. Where a class has too few samples, they repeat.
    """
    x, y = samples.train
    labels = np.sort(np.arange(boxes, dtype=np.int32) % samples.n_classes)
    rows = [np.resize(np.flatnonzero(y == c), (labels == c).sum()) for c in np.unique(labels)]
    centres = x[np.concatenate(rows)]
    half = np.uint8(HALF_SIDE)
    return centres - np.minimum(centres, half), centres + np.minimum(~centres, half), labels


# --- time ---------------------------------------------------------------------------------


def alternate(
    work: Mapping[str, Callable[[], Any]], rounds: int, at_least: float = 0.02
) -> dict[str, np.ndarray]:
    """Time candidates in turn, so that a change of the machine's speed meets all of them.

    Parameters
    ----------
    work
        Candidates by name. Each runs once before the first round, for compilation and caches.
    rounds
        Rounds; every second one goes through the candidates backwards.
    at_least
        Seconds below which a candidate is called several times in a run; 0 for once.

    Returns
    -------
    dict
        Seconds per call of every round, (rounds,) float64, by name.
    """
    calls = {}
    for name, call in work.items():
        call()
        once = _seconds(call, 1) if at_least > 0 else 1.0
        calls[name] = max(1, min(1000, round(at_least / max(once, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds):
        names = list(work) if turn % 2 == 0 else list(work)[::-1]
        for name in names:
            time.sleep(_PAUSE)
            times[name].append(_seconds(work[name], calls[name]))
    return {name: np.array(values) for name, values in times.items()}


def _seconds(call: Callable[[], Any], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def record(case: str, name: str, unit: str, values: Any, note: str = "", **more: Any) -> Record:
    """Return one measurement: median and quartiles of the rounds.

    Parameters
    ----------
    case, name
        What was worked on, and by whom.
    unit
        Unit of the values.
    values
        One number per round (or one alone).
    note
        What the reader has to know about it, e.g. that it is extrapolated.
    **more
        Further plain values to keep.
    """
    numbers = np.atleast_1d(np.asarray(values, float))
    low, median, high = np.percentile(numbers, (25, 50, 75))
    return {
        "case": case,
        "name": name,
        "unit": unit,
        "median": _rounded(median),
        "q1": _rounded(low),
        "q3": _rounded(high),
        "runs": len(numbers),
        "note": note,
        **more,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def absent(case: str, name: str, note: str) -> Record:
    """Return the place of a measurement that could not be made, and why."""
    return {"case": case, "name": name, "unit": "", "median": None, "runs": 0, "note": note}
