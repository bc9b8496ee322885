"""The table of what accepts what: every cell that can be tried here is."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from support.docs_blocks import ROOT

from boxnn_numba import (
    BoxNN,
    BoxNNClassifier,
    box_distance,
    certified_accuracy,
    certified_radius,
    class_distance,
    fit,
    lazy,
    load_model,
    median_certified_radius,
    pairwise_distance,
)
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.errors import BoxNNError
from boxnn_numba.pipelines import train
from boxnn_numba.training import rows

PAGE = ROOT / "docs" / "api" / "accepts.md"
ROWS, CHUNK = 60, 25
Y = np.arange(ROWS) % 3
CODES = (np.array([[30], [110], [190]])[Y] + np.arange(ROWS * 4).reshape(ROWS, 4) % 29).astype(
    "uint8"
)
REAL = CODES.astype(np.float32) + np.float32(0.5)
NAMES = ["a", "b", "c", "d"]
SMALL = {"boxes": 6, "epochs": 1, "preset": "graded"}

Give = Callable[[np.ndarray], Any]


# --- kinds of rows ------------------------------------------------------------------------------


class Stored:
    """A stored array as others write them, which tells how many rows were read at a time."""

    chunks = (CHUNK,)

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.most = 0

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = self._array[rows]
        self.most = max(self.most, len(found))
        return found

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self.most = len(self)
        return np.asarray(self._array, dtype)


def _chunks(array: np.ndarray) -> tuple[int, ...]:
    return (CHUNK, 2)[: array.ndim]


def _dask(array: np.ndarray) -> Any:
    return pytest.importorskip("dask.array").from_array(array, chunks=_chunks(array))


def _xarray(array: Any) -> Any:
    dims = ("row", "column")[: array.ndim]
    return pytest.importorskip("xarray").DataArray(array, dims=dims)


def _pandas(array: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    if array.ndim == 1:
        return pandas.Series(array)
    return pandas.DataFrame(array, columns=NAMES[: array.shape[1]])


def _polars(array: np.ndarray) -> Any:
    polars = pytest.importorskip("polars")
    if array.ndim == 1:
        return polars.Series(array)
    return polars.DataFrame(array, schema=NAMES[: array.shape[1]])


def _frame(array: np.ndarray) -> Any:
    return pytest.importorskip("dask.dataframe").from_pandas(_pandas(array), npartitions=3)


def _mapped(array: np.ndarray) -> Any:
    path = f"{array.dtype.name}-{zlib.crc32(array.tobytes())}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


#: By the head of the column: what makes such rows of NumPy's.
KINDS: dict[str, dict[str, Give]] = {
    "NumPy": {"numpy": lambda array: array},
    "memory map, Zarr": {
        "memory map": _mapped,
        "zarr": lambda array: zarr.create_array({}, data=array, chunks=_chunks(array)),
        "stored": Stored,
    },
    "Dask array": {"dask": _dask},
    "xarray": {"over numpy": _xarray, "over dask": lambda array: _xarray(_dask(array))},
    "pandas, polars": {"pandas": _pandas, "polars": _polars},
    "Dask frame": {"frame": _frame},
    "torch (CPU)": {"torch": lambda array: pytest.importorskip("torch").from_numpy(array.copy())},
    "CuPy": {"cupy": lambda array: pytest.importorskip("cupy").asarray(array)},
}


# --- functions ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_codes() -> BoxNN:
    return fit(CODES, Y, **SMALL)


@pytest.fixture(scope="module")
def of_numbers() -> BoxNN:
    return fit(REAL, Y, **SMALL)


@pytest.fixture(scope="module")
def classifiers() -> Callable[[Any, int], BoxNNClassifier]:
    """The classifier of 2 or 3 classes for rows with names, or for those without."""
    with_names, without = (
        {count: BoxNNClassifier(**SMALL).fit(x, Y % count) for count in (2, 3)}
        for x in (_pandas(REAL), REAL)
    )
    return lambda rows, count: (with_names if hasattr(rows, "columns") else without)[count]


@pytest.fixture(scope="module")
def calls(of_codes: BoxNN, of_numbers: BoxNN, classifiers: Any) -> dict[str, list[Any]]:
    """By the name of the row: functions of what makes rows, which return what to compare."""
    boxes = of_codes.boxes
    distance = of_codes.class_distance(CODES)
    outcome = *certified_radius(distance, boxes.width), Y

    def summary(function: Any, *rest: Any) -> Callable[[Give], Any]:
        return lambda give: function(*map(give, outcome), *rest)

    def by(name: str, *rest: Any, classes: int = 3, labels: bool = False) -> Callable[[Give], Any]:
        def call(give: Give) -> Any:
            x = give(REAL)
            y = [give(Y)] if labels else []
            return getattr(classifiers(x, classes), name)(x, *y, *rest)

        return call

    def trained(give: Give) -> Any:
        train(give(REAL), "trained.zarr", y=Y, **SMALL)
        return load_model("trained.zarr")

    def few(give: Give) -> Any:
        return give(CODES[:8])

    return {
        "BoxNN.encode": [lambda give: of_numbers.encode(give(REAL))],
        "Grid.encode": [lambda give: of_numbers.grid.encode(give(REAL))],
        "BoxNN.predict": [lambda give: of_codes.predict(give(CODES))],
        "BoxNN.certify, margins": [lambda give: of_codes.certify(give(CODES))],
        "BoxNN.certify, pairwise and exact": [
            lambda give: of_codes.certify(give(CODES), certificate="pairwise"),
            lambda give: of_codes.certify(give(CODES[::6]), certificate="exact"),
        ],
        "BoxNN.class_distance": [lambda give: of_codes.class_distance(give(CODES))],
        "class_distance": [lambda give: class_distance(give(CODES), boxes)],
        "box_distance": [lambda give: box_distance(give(CODES), boxes.lower, boxes.upper, 9)],
        "pairwise_distance": [lambda give: pairwise_distance(give(CODES), boxes)],
        "certified_radius": [lambda give: certified_radius(give(distance), boxes.width)],
        "certified_accuracy": [summary(certified_accuracy, [0, 1, 2])],
        "median_certified_radius": [summary(median_certified_radius)],
        "BoxNNClassifier.predict": [by("predict")],
        "BoxNNClassifier.certify": [by("certify")],
        "BoxNNClassifier.predict_proba": [by("predict_proba")],
        "BoxNNClassifier.decision_function": [
            by("decision_function", classes=count) for count in (2, 3)
        ],
        "BoxNNClassifier.score": [by("score", labels=True)],
        "BoxNNClassifier.certified_score": [by("certified_score", 1, labels=True)],
        "BoxNN.explain": [lambda give: [str(one) for one in of_codes.explain(few(give))]],
        "greedy_attack": [lambda give: greedy_attack(of_codes, few(give)).changed],
        "fit": [lambda give: fit(give(REAL), Y, **SMALL)],
        "BoxNNClassifier.fit": [lambda give: BoxNNClassifier(**SMALL).fit(give(REAL), Y).model_],
        "pipelines.train": [trained],
    }


# --- the table ----------------------------------------------------------------------------------


def table() -> Iterator[tuple[str, str, str]]:
    """Name of the function, head of the column, and cell."""
    text = PAGE.read_text(encoding="utf-8")
    lines = re.search(r"<!-- accepts: begin -->\n(.*)\n<!-- accepts: end -->", text, re.S)
    assert lines is not None
    head, _, *body = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[1].splitlines()
    )
    for names, *cells in body:
        for name in _functions(names):
            yield from ((name, kind, cell) for kind, cell in zip(head[1:], cells, strict=True))


def _functions(names: str) -> list[str]:
    """Names of a row: those after a class are of it, words besides belong to the one before."""
    quoted = re.findall(r"`([^`]+)`([^`]*)", names)
    found: list[str] = []
    for name, more in quoted:
        owner = found[-1].partition(".")[0] if found and "Classifier" in found[-1] else ""
        whole = f"{owner}.{name}" if owner and "." not in name else name
        found.append(whole + more.rstrip(", "))
    return found


TABLE = list(table())


def arrays(found: Any) -> tuple[Any, ...]:
    """What to compare of an answer."""
    if isinstance(found, BoxNN):
        return found.boxes.lower, found.boxes.upper
    return tuple(found) if isinstance(found, tuple) else (found,)


def same(found: Any, wanted: Any) -> None:
    for one, other in zip(arrays(found), arrays(wanted), strict=True):
        values = one.compute() if hasattr(one, "compute") else one
        np.testing.assert_array_equal(np.asarray(values), np.asarray(other))
        if hasattr(one, "dtype"):
            assert one.dtype == np.asarray(other).dtype


def is_of(found: Any, cell: str, source: str) -> bool:
    """Whether an answer is of the kind that a cell says."""
    held = type(found).__module__.partition(".")[0]
    if " or " in cell:
        cell = cell.split(" or ")[source.endswith("dask")]
    if cell == "labelled":
        inside = type(found.data).__module__.partition(".")[0]
        return held == "xarray" and inside == source.split()[-1] and found.dims[0] == "row"
    return held == {"lazy": "dask", "GPU": "cupy"}.get(cell, "numpy") or (
        cell in ("array", "blocks", "loaded") and isinstance(found, BoxNN | int | float | list)
    )


@functools.cache
def _wanted(call: Callable[[Give], Any]) -> Any:
    """The answer for NumPy's arrays, which the cells of a row share."""
    return call(lambda array: array)


@pytest.mark.parametrize(("name", "kind", "cell"), TABLE, ids=lambda word: word.replace(" ", "-"))
def test_cell(
    name: str,
    kind: str,
    cell: str,
    calls: dict[str, list[Any]],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lazy, "_BLOCK_BYTES", CHUNK * 4)
    monkeypatch.setattr(rows, "STEP_BYTES", CHUNK * 4)
    for number, call in enumerate(calls[name]):
        wanted = _wanted(call)
        for source, make in KINDS[kind].items():
            (tmp_path / f"{number}{source}").mkdir()
            monkeypatch.chdir(tmp_path / f"{number}{source}")
            made: list[Any] = []

            def give(array: np.ndarray, make: Give = make, made: list[Any] = made) -> Any:
                made.append(make(array))
                return made[-1]

            if cell == "-":
                with pytest.raises((BoxNNError, TypeError)):
                    call(give)
                continue
            found = call(give)
            assert all(
                is_of(one, cell, source) for one in (found if isinstance(found, tuple) else [found])
            )
            same(found, wanted)
            if source == "stored" and cell == "blocks":
                assert 0 < made[0].most <= CHUNK


def test_the_table_has_every_call_and_kind_once(calls: dict[str, list[Any]]) -> None:
    assert [name for name, kind, _ in TABLE if kind == "NumPy"] == list(calls)
    assert {kind for _, kind, _ in TABLE} == set(KINDS)
    assert len(TABLE) == len(calls) * len(KINDS)
    legend = set(re.findall(r"^\| `([^`]+)` \| ", PAGE.read_text(encoding="utf-8"), re.M))
    assert {word for _, _, cell in TABLE for word in cell.split(" or ")} <= legend
