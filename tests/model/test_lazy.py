"""Lazy, labelled and stored arrays: the same as NumPy's, block by block."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from boxnn_numba import (
    Boxes,
    BoxNN,
    Grid,
    box_distance,
    certified_accuracy,
    certified_radius,
    class_distance,
    lazy,
    median_certified_radius,
    pairwise_distance,
)
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.threads import default_threads
from boxnn_numba.certificates.margin import balanced_certified_accuracy, mean_certified_radius
from boxnn_numba.columns import Column, Columns
from boxnn_numba.errors import InputError, OptionError

N, SHAPE = 37, (3, 4)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, *SHAPE)).astype(np.uint8)
CODES = IMAGES.reshape(N, -1)
REAL = RNG.normal(size=(N, 12)).astype(np.float32)


def make_boxes(seed: int = 0, shift: int = 0) -> Boxes:
    centres = np.random.default_rng(seed).integers(0, 256, (30, 12))
    low, high = np.maximum(centres - 40, 0), np.minimum(centres + 40 + shift, 255)
    return Boxes(low, high, np.arange(30) % 3, 50)


BOXES = make_boxes()
LABELS = ["a", "b", "long"]
MODELS = {
    "codes": (BoxNN(BOXES, LABELS), CODES),
    "real": (BoxNN(BOXES, LABELS, Grid.fit(REAL, missing=True)), REAL),
    "images": (BoxNN(BOXES, LABELS, feature_shape=SHAPE), IMAGES),
    "ensemble": (BoxNN(BOXES, range(3), others=(make_boxes(1),), offset=np.arange(3)), CODES),
}
ANSWERS: dict[str, Callable[[BoxNN, Any], Any]] = {
    "encode": lambda model, x: model.encode(x),
    "class_distance": lambda model, x: model.class_distance(x),
    "predict": lambda model, x: model.predict(x),
    "margin": lambda model, x: model.certify(x),
    "paper": lambda model, x: model.certify(x, "paper"),
    "attackable": lambda model, x: model.certify(x, attackable=[0, 3, 5]),
    "pairwise": lambda model, x: model.certify(x, certificate="pairwise"),
    "costs": lambda model, x: model.certify(x, certificate="pairwise", costs=np.arange(1, 13)),
    "auto": lambda model, x: model.certify(x, certificate="auto"),
}
SLOW_ANSWERS: dict[str, Callable[[BoxNN, Any], Any]] = {
    "exact": lambda model, x: model.certify(x, certificate="exact"),
    "patch": lambda model, x: model.certify(x, certificate="patch", patch="1,2"),
}


def arrays(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def agree(found: Any, expected: Any, rows: tuple[int, ...] | None = None) -> None:
    """Lazy arrays are what NumPy's are, and know their types, shapes and chunks before."""
    assert type(found) is type(expected) or not isinstance(expected, tuple)
    computed = dask.compute(*arrays(found))
    for one, value, wanted in zip(arrays(found), computed, arrays(expected), strict=True):
        assert isinstance(one, da.Array) and isinstance(value, np.ndarray)
        assert one.dtype == one._meta.dtype == value.dtype == wanted.dtype
        assert one._meta.ndim == one.ndim == wanted.ndim
        assert np.array_equal(value, wanted)
        if rows is not None:
            assert one.chunks == (rows, *((size,) for size in wanted.shape[1:]))


def chunks_of(draw: Any, size: int) -> tuple[int, ...]:
    """Any division, parts of no rows among them."""
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=4)))
    return tuple(int(step) for step in np.diff([0, *cuts, size]))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_chunks(data: Any) -> None:
    model, x = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    answer = ANSWERS[data.draw(st.sampled_from(sorted(ANSWERS)))]
    rows = chunks_of(data.draw, N)
    columns = [chunks_of(data.draw, size) for size in x.shape[1:]]
    agree(answer(model, da.from_array(x, (rows, *columns))), answer(model, x), rows)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_every_answer(name: str, answer: str) -> None:
    model, x = MODELS[name]
    found = ANSWERS[answer](model, da.from_array(x, (10, *(2,) * (x.ndim - 1))))
    agree(found, ANSWERS[answer](model, x), (10, 10, 10, 7))


@pytest.mark.parametrize("answer", SLOW_ANSWERS)
def test_slow_answers(answer: str) -> None:
    model, x = MODELS["images"]
    agree(SLOW_ANSWERS[answer](model, da.from_array(x[:5], 3)), SLOW_ANSWERS[answer](model, x[:5]))


def test_functions() -> None:
    codes, real = da.from_array(CODES, (9, 5)), da.from_array(REAL, (9, 5))
    rows = (9, 9, 9, 9, 1)
    low, high = REAL[:7] - 1, REAL[:7] + np.float32(0.5)
    agree(class_distance(codes, BOXES), class_distance(CODES, BOXES), rows)
    agree(pairwise_distance(codes, BOXES), pairwise_distance(CODES, BOXES), rows)
    bounds = BOXES.lower, BOXES.upper, 7
    agree(box_distance(codes, *bounds), box_distance(CODES, *bounds), rows)
    agree(box_distance(real, low, high), box_distance(REAL, low, high), rows)
    grid = Grid.fit(REAL)
    agree(grid.encode(real), grid.encode(REAL), rows)
    distance = class_distance(CODES, BOXES)
    agree(certified_radius(da.from_array(distance, (9, 2)), 50), certified_radius(distance, 50))


def test_unknown_lengths() -> None:
    model, x = MODELS["codes"]
    some = x[:, 0] > 100
    found = model.certify(da.from_array(x, 10)[da.from_array(some, 10)])
    assert np.isnan(found.radius.shape[0])
    agree(found, model.certify(x[some]))
    with pytest.raises(InputError, match="number of columns must be known"):
        model.predict(da.from_array(x.T, 5)[da.from_array(some[:12], 5)].T)


# --- no rows --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_no_rows(name: str) -> None:
    model, x = MODELS[name]
    answers = {**ANSWERS, **(SLOW_ANSWERS if name == "images" else {})}
    for answer in answers.values():
        for one, some in zip(
            arrays(answer(model, x[:0])), arrays(answer(model, x[:2])), strict=True
        ):
            assert one.shape == (0, *some.shape[1:]) and one.dtype == some.dtype
        lazily = answer(model, da.from_array(x[:0]))
        agree(lazily, answer(model, x[:0]))


def test_no_rows_of_functions() -> None:
    none = CODES[:0]
    assert MODELS["codes"][0].explain(none) == []
    assert class_distance(none, BOXES).shape == (0, 3)
    assert pairwise_distance(none, BOXES).shape == (0, 30)
    assert box_distance(none, BOXES.lower, BOXES.upper).shape == (0, 30)
    assert box_distance(REAL[:0], REAL[:2], REAL[:2]).dtype == np.float32
    assert certified_radius(np.empty((0, 3), np.int32), 1)[1].shape == (0,)
    assert Grid.fit(REAL).encode(REAL[:0]).shape == (0, 12)
    with pytest.raises(InputError, match="at least one row"):
        Grid.fit(REAL[:0])
    with pytest.raises(InputError, match="at least one row"):
        Boxes(none, none, [])


# --- kernels and graphs ---------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and threads of every call of a kernel."""
    found: list[tuple[int, int]] = []
    kernel = CpuBackend.class_distance

    def counted(self: CpuBackend, x: np.ndarray, *rest: Any) -> None:
        found.append((len(x), self.threads))
        kernel(self, x, *rest)

    monkeypatch.setattr(CpuBackend, "class_distance", counted)
    return found


def test_one_kernel_a_block_in_one_thread(calls: list[tuple[int, int]]) -> None:
    model, x = MODELS["codes"]
    codes = da.from_array(x, (10, 5))
    found = [*model.certify(codes), model.predict(codes), model.class_distance(codes)]
    assert calls == []  # to know types needs none
    dask.compute(*found, certified_accuracy(*model.certify(codes), np.resize(LABELS, N), [0, 1]))
    assert sorted(calls) == [(7, 1), (10, 1), (10, 1), (10, 1)]


def test_the_model_is_in_the_graph_once() -> None:
    low = RNG.integers(0, 200, (1000, 12))
    model = BoxNN(Boxes(low, low + 9, np.arange(1000) % 3), LABELS)
    for answer in ANSWERS.values():
        for one in arrays(answer(model, da.ones((200, 12), dtype=np.uint8, chunks=10))):
            graph = dict(dask.optimize(one)[0].dask)
            sizes = {key: len(pickle.dumps(task)) for key, task in graph.items()}
            large = [key for key, size in sizes.items() if size > 5000]
            assert len(large) == 1 and str(large[0]).startswith("boxnn-")
            assert sizes[large[0]] > low.size


def test_the_same_content_has_the_same_names() -> None:
    x = da.from_array(CODES, 10)
    same = [BoxNN(make_boxes(), LABELS, training={"run": run}) for run in range(2)]
    other = [
        BoxNN(make_boxes(shift=1), LABELS),
        BoxNN(BOXES, ["a", "b", "c"]),
        BoxNN(BOXES, LABELS, offset=[0, 0, 1]),
        BoxNN(BOXES, LABELS, Grid.fit(REAL)),
        BoxNN(BOXES, LABELS, Grid.fit(REAL + 1)),
        BoxNN(BOXES, LABELS, others=(make_boxes(1),)),
        BoxNN(BOXES, LABELS, group_size=2),
        *(
            BoxNN(BOXES, LABELS, Grid.fit(REAL), columns=Columns(columns))
            for columns in ([Column(f"{kind}{k}") for k in range(12)] for kind in "xy")
        ),
    ]
    names = [model.predict(x).name for model in (*same, *other)]
    assert names[0] == names[1] and len(set(names)) == 10
    assert pickle.loads(pickle.dumps(same[0])).predict(x).name == names[0]
    kinds = [same[0].certify(x, kind).radius.name for kind in ("sound", "paper")]
    assert len(set(kinds)) == 2


# --- schedulers -----------------------------------------------------------------------------


def test_processes_lay_boxes_out_once() -> None:
    model, x = MODELS["codes"]
    found = model.certify(da.from_array(x, 10))
    with dask.config.set({"multiprocessing.context": "spawn"}):
        value = dask.compute(*found, scheduler="processes", num_workers=1)
    assert np.array_equal(value[1], model.certify(x).radius)
    shared = lazy.Shared(model, "token")
    copies = [pickle.loads(pickle.dumps(shared)) for _ in range(2)]
    assert copies[0] is copies[1] and copies[0] is not shared
    for number in range(9):
        pickle.loads(pickle.dumps(lazy.Shared(None, str(number))))
    assert len(lazy._KEPT) < 9


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from distributed import Client

    with Client(
        n_workers=2, threads_per_worker=1, processes=False, set_as_default=False,
        dashboard_address="127.0.0.1:0",
    ) as client:  # fmt: skip
        yield client


def test_a_large_model_on_workers_gives_no_warning(client: Any) -> None:
    wide = 250_000
    low = np.zeros((24, wide), np.uint8)
    model = BoxNN(Boxes(low, low + 9, np.arange(24) % 3), LABELS)
    x = RNG.integers(0, 256, (4, wide)).astype(np.uint8)
    found = model.certify(da.from_array(x, (2, wide)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        radius = client.compute(found.radius).result()
    assert np.array_equal(radius, model.certify(x).radius)


def test_workers(client: Any) -> None:
    model, x = MODELS["ensemble"]
    value = client.gather(client.compute([*model.certify(da.from_array(x, 7))]))
    for one, expected in zip(value, model.certify(x), strict=True):
        assert np.array_equal(one, expected)


# --- summaries ------------------------------------------------------------------------------

SUMMARIES: dict[str, Callable[..., Any]] = {
    "accuracy": lambda *rows: certified_accuracy(*rows, [0, 1, 2, 9]),
    "balanced": lambda *rows: balanced_certified_accuracy(*rows, [0, 1, 2, 9]),
    "median": median_certified_radius,
    "mean": mean_certified_radius,
}


@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("budgets", [False, True])
def test_summaries(summary: str, budgets: bool) -> None:
    rng = np.random.default_rng(3)
    y = rng.choice(LABELS, 200)
    prediction = np.where(rng.random(200) < 0.8, y, "a")
    radius = rng.integers(0, 5, 200).astype(np.int32)
    rows = [prediction, radius / 4 if budgets else radius, y]
    expected = SUMMARIES[summary](*rows)
    blocks = [da.from_array(one, 30) for one in rows]
    for mixed in ([*blocks], [blocks[0], *rows[1:]], [rows[0], blocks[1].rechunk(77), blocks[2]]):
        found = SUMMARIES[summary](*mixed)
        assert isinstance(found, da.Array) and found.shape == np.shape(expected)
        value = found.compute()
        assert found.dtype == np.asarray(value).dtype
        np.testing.assert_allclose(value, expected, rtol=1e-12)
    some = [one[blocks[1] > 0.3] for one in blocks]  # unknown lengths
    at = rows[1] > 0.3
    np.testing.assert_allclose(
        SUMMARIES[summary](*some).compute(), SUMMARIES[summary](*(one[at] for one in rows))
    )


def test_summaries_that_cannot_be() -> None:
    y = da.from_array(np.zeros(20, int), 5)
    with pytest.raises(InputError, match="one length"):
        certified_accuracy(y, y, y[:-1], [0])
    with pytest.raises(InputError, match="one length"):
        certified_accuracy(y, y[:, None], y, [0])
    with pytest.raises(InputError, match="no samples"):
        median_certified_radius(y[:0], y[:0], y[:0]).compute()
    with pytest.raises(InputError, match="lengths are unknown"):
        median_certified_radius(y[y > 3], y[y > 3], np.zeros(3, int))
    with pytest.raises(OptionError, match="whole numbers"):
        certified_accuracy(y, y, y, [0.5])


# --- what is wrong --------------------------------------------------------------------------


def test_what_the_metadata_show_is_said_at_once() -> None:
    model, x = MODELS["codes"]
    for answer in ANSWERS.values():
        with pytest.raises(InputError, match="11 features and the model has 12"):
            answer(model, da.from_array(x[:, 1:], 10))
        with pytest.raises(InputError, match="dtype <U1"):
            answer(model, da.full((20, 12), "1", chunks=10))
        with pytest.raises(InputError, match="two-dimensional"):
            answer(model, da.from_array(x[:, 0], 10))
    with pytest.raises(OptionError, match="unknown convention"):
        model.certify(da.from_array(x, 10), "loose")
    with pytest.raises(OptionError, match="sound"):
        model.certify(da.from_array(x, 10), "paper", certificate="pairwise")


def test_slow_blocks_are_not_taken_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_GROUP_SECONDS", 0.1)
    made: list[float] = []

    def slow(block: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        made.append(block[0, 0])
        return block

    x = da.zeros((200, 3), chunks=(1, 3)).map_blocks(slow, dtype=float, meta=np.empty((0, 0)))
    with closing(lazy.computed_blocks(x)) as blocks:
        next(blocks)
    assert len(made) <= 1 + max(5, default_threads())


def test_what_values_show_is_said_by_the_task() -> None:
    model, x = MODELS["codes"]
    found = model.predict(da.from_array(x.astype(float) + 0.5, 10))
    with pytest.raises(InputError, match=r"^of a block of rows: x .* must be whole numbers"):
        found.compute(scheduler="threads")


# --- frames ---------------------------------------------------------------------------------


def test_frames_are_matched_by_name() -> None:
    pandas, frames = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    from boxnn_numba import BoxNNClassifier

    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "amount": rng.normal(size=60),
            "city": rng.choice(["Bonn", "Kiel", "Ulm"], 60),
            "since": pandas.date_range("2020-01-01", periods=60),
        }
    )
    y = np.where((frame.amount > 0) ^ (frame.city == "Bonn"), "yes", "no")
    classifier = BoxNNClassifier("graded", boxes=10, epochs=1).fit(frame, y)
    parts = frames.from_pandas(frame[["city", "since", "amount"]], npartitions=4)
    for name in ("predict", "certify", "predict_proba", "decision_function"):
        method = getattr(classifier, name)
        agree(method(parts), method(frame))
        assert method(parts).numblocks[0] == 4
        assert method(frame[:0]).dtype == method(frame).dtype and len(method(frame[:0])) == 0
    agree(classifier.certify(parts, "margin"), classifier.certify(frame, "margin"))
    for answer in (ANSWERS["predict"], ANSWERS["margin"], ANSWERS["pairwise"]):
        agree(answer(classifier.model_, parts), answer(classifier.model_, frame))
    with pytest.raises(InputError, match="column 'city' is missing"):
        classifier.predict(parts.rename(columns={"city": "town"}))
    truth = parts.assign(y=frames.from_pandas(pandas.Series(y), npartitions=4))["y"]
    found = certified_accuracy(*classifier.model_.certify(parts), truth, [0, 1])
    expected = certified_accuracy(*classifier.model_.certify(frame), y, [0, 1])
    assert found.compute().tolist() == expected.tolist()
    score = classifier.certified_score(parts, y, 1)
    assert score == classifier.certified_score(frame, y, 1)


def test_a_classifier_of_arrays() -> None:
    from boxnn_numba import BoxNNClassifier

    y = np.where(REAL[:, 0] > 0, 5, 3)
    classifier = BoxNNClassifier("graded", boxes=6, epochs=1).fit(REAL, y)
    x = da.from_array(REAL, (10, 5))
    for name in ("predict", "certify", "predict_proba", "decision_function"):
        agree(getattr(classifier, name)(x), getattr(classifier, name)(REAL), (10, 10, 10, 7))
    sent = [task for key, task in dict(classifier.predict(x).dask).items() if "box" in str(key)]
    assert len(sent) == 1 and b"_seeds" not in pickle.dumps(sent)
    with pytest.raises(ValueError, match="11 features"):
        classifier.predict(x[:, 1:])


# --- xarray ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_lazy", [False, True])
def test_dims_and_coords_are_kept(is_lazy: bool) -> None:
    xarray = pytest.importorskip("xarray")
    model, x = MODELS["images"]
    coords = {"time": np.arange(N) * 2, "column": list("wxyz"), "run": 7}
    images = xarray.DataArray(x, coords, dims=("time", "row", "column"), name="images")
    images = images.chunk({"time": 10, "row": 2}) if is_lazy else images
    for answer in (*ANSWERS.values(), *SLOW_ANSWERS.values()):
        found = answer(model, images[:4])
        for one, expected in zip(arrays(found), arrays(answer(model, x[:4])), strict=True):
            assert isinstance(one, xarray.DataArray) and one.name is None
            assert isinstance(one.data, da.Array if is_lazy else np.ndarray)
            assert one.time.values.tolist() == [0, 2, 4, 6] and int(one.run) == 7
            assert np.array_equal(one, expected) and one.dtype == expected.dtype
    distance = model.class_distance(images)
    assert distance.dims == ("time", "class") and distance["class"].values.tolist() == LABELS
    flat = xarray.DataArray(REAL, dims=("row", "band"), coords={"band": list("abcdefghijkl")})
    pixels = images.stack(place=("row", "time")).transpose("place", "column")
    narrow = BoxNN(Boxes(BOXES.lower[:, :4], BOXES.upper[:, :4], BOXES.labels, 50), LABELS)
    assert narrow.predict(pixels).unstack("place").dims == ("row", "time")
    codes = MODELS["real"][0].encode(flat)
    assert codes.dims == ("row", "band") and "band" in codes.coords
    y = np.resize(LABELS, N)
    accuracy = certified_accuracy(*model.certify(images), y, [0, 1])
    assert isinstance(accuracy, da.Array if is_lazy else np.ndarray)
    assert (
        np.asarray(accuracy).tolist() == certified_accuracy(*model.certify(x), y, [0, 1]).tolist()
    )


def test_answers_as_wide_as_the_samples_have_dims_of_their_own() -> None:
    xarray = pytest.importorskip("xarray")
    boxes = Boxes([[0] * 3, [100] * 3, [200] * 3], [[50] * 3, [150] * 3, [255] * 3], [0, 1, 2], 50)
    model = BoxNN(boxes, LABELS)
    coords = {"sensor": ["s", "t", "u"], "class": ("time", ["x", "y"])}
    x = xarray.DataArray(np.full((2, 3), 120, np.uint8), coords, dims=("time", "sensor"))
    for answer in (model.class_distance(x), model.class_distance(x.chunk(1))):
        assert answer.dims == ("time", "class") and [*answer.coords] == ["class"]
        assert answer.sel({"class": "b"}).values.tolist() == [0, 0]
    assert class_distance(x, boxes).dims == ("time", "class")
    assert pairwise_distance(x, boxes).dims == ("time", "box")
    assert model.encode(x).dims == x.dims and [*model.encode(x).coords] == [*x.coords]
    with pytest.raises(InputError, match="rows along 'class'"):
        model.class_distance(x.drop_vars("class").rename(time="class"))


# --- stored arrays --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zarr", "shards", "memmap"])
@pytest.mark.parametrize("name", ["codes", "real", "images"])
def test_stored_arrays_are_read_in_blocks(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = MODELS[name]
    stored: Any
    if kind == "memmap":
        np.save(tmp_path / "x.npy", x)
        stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    else:
        chunks = (4, *x.shape[1:])
        shards = (8, *x.shape[1:]) if kind == "shards" else None
        stored = zarr.create_array(
            tmp_path / "x", shape=x.shape, dtype=x.dtype, chunks=chunks, shards=shards
        )
        stored[:] = x
    read: list[int] = []
    take = lazy._read

    def counted(array: Any, rows: slice) -> np.ndarray:
        block = take(array, rows)
        read.append(len(block))
        return block

    monkeypatch.setattr(lazy, "_read", counted)
    monkeypatch.setattr(lazy, "_BLOCK_BYTES", 8 * x[0].nbytes)
    for answer in ANSWERS.values():
        read.clear()
        for one, expected in zip(
            arrays(answer(model, stored)), arrays(answer(model, x)), strict=True
        ):
            assert type(one) is np.ndarray and one.dtype == expected.dtype
            assert np.array_equal(one, expected)
        assert read == [8, 8, 8, 8, 5]
        with pytest.raises(InputError, match="features and the model has 12"):
            answer(model, stored[:, 1:])
    if name == "codes":
        assert np.array_equal(class_distance(stored, BOXES), class_distance(x, BOXES))
    if name == "real" and kind == "memmap":
        np.save(tmp_path / "x.npy", np.where(np.arange(N)[:, None] == 35, np.inf, x))
        with pytest.raises(InputError, match="rows from 32 on: x holds inf at row 3"):
            model.predict(np.load(tmp_path / "x.npy", mmap_mode="r"))


def test_tensors_are_arrays() -> None:
    torch = pytest.importorskip("torch")
    model, x = MODELS["images"]
    for answer in ANSWERS.values():
        found = answer(model, torch.from_numpy(x))
        for one, expected in zip(arrays(found), arrays(answer(model, x)), strict=True):
            assert type(one) is np.ndarray and np.array_equal(one, expected)


def test_numpy_needs_no_dask() -> None:
    code = (
        "import sys, numpy as np\n"
        "from boxnn_numba import BoxNN, Boxes, Grid, certified_accuracy\n"
        "x = np.zeros((4, 2))\n"
        "model = BoxNN(Boxes([[0, 0], [9, 9]], [[5, 5], [9, 9]], [0, 1]), [0, 1], Grid.fit(x))\n"
        "p, r = model.certify(x, certificate='pairwise')\n"
        "certified_accuracy(p, r, p, [0])\n"
        "print(sorted({'dask', 'xarray', 'pandas', 'torch', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
