"""Distances and certificates on a GPU against loops: on a real one, or in the simulator."""

from __future__ import annotations

import itertools
from typing import Any

import dask.array as da
import numpy as np
import pytest
from support import reference
from support.gpu_arrays import SIMULATED, to_gpu, to_host, why_not

from boxnn_numba import (
    Boxes,
    BoxNN,
    box_distance,
    certified_accuracy,
    certified_radius,
    class_distance,
    pairwise_distance,
)
from boxnn_numba.backends.devices import get_backend, on_gpu
from boxnn_numba.distances import laid_out, part_distance
from boxnn_numba.errors import BackendError, InputError

_REASON = why_not()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_REASON is not None, reason=str(_REASON)),
]

#: (samples, boxes, features, classes): within a tile and beyond it, whole words and not.
SHAPES = [(1, 1, 1, 1), (5, 6, 9, 3), (4, 9, 8, 2), (6, 5, 12, 8)]
if not SIMULATED:
    SHAPES += [(300, 130, 65, 7), (129, 1030, 784, 10)]
WIDTHS = (1, 77, 254, 255)


def case(shape: tuple[int, int, int, int], width: int) -> tuple[np.ndarray, Boxes]:
    n, m, features, classes = shape
    rng = np.random.default_rng([*shape, width])
    x = rng.integers(0, 256, (n, features), dtype=np.uint8)
    ends = np.sort(rng.integers(0, 256, (2, m, features), dtype=np.uint8), axis=0)
    boxes = Boxes(*ends, rng.integers(0, classes, m), width, classes)
    return x, boxes


def expected(x: np.ndarray, boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    if x.size * len(boxes) < 1e5:
        pairs = np.array(reference.distances(x, boxes.lower, boxes.upper, boxes.width))
    else:  # tested against the loops elsewhere
        pairs = pairwise_distance(x, boxes)
    classes = reference.class_distances(pairs, boxes.labels.tolist(), boxes.n_classes)
    return pairs, np.array(classes)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distances_are_those_of_loops(shape: tuple[int, int, int, int], width: int) -> None:
    x, boxes = case(shape, width)
    pairs, classes = expected(x, boxes)
    there = to_gpu(x)
    for function, wanted in ((pairwise_distance, pairs), (class_distance, classes)):
        found = function(there, boxes)
        assert type(found) is type(there) and found.dtype == np.int32
        np.testing.assert_array_equal(to_host(found), wanted)
        sent = function(x, boxes, device="cuda")
        assert isinstance(sent, np.ndarray) and sent.dtype == np.int32
        np.testing.assert_array_equal(sent, wanted)


#: Parts and groups of 13 features; groups of up to three words.
STRUCTURES: dict[str, dict[str, list[int]]] = {
    "parts": {"part": [0, 1, 1, 0, 2, 2, 2, 2, 2, 2, 1, 0, 1]},
    "columns": {"part": list(range(13))},
    "groups": {"group": [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0]},
    "pixels": {"group": [k // 3 for k in range(13)], "part": [k // 6 for k in range(12)] + [0]},
    "mixed": {"part": [1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1],
              "group": [0, 1, 1, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7]},
}  # fmt: skip


def structured(name: str, width: int, factored: bool) -> tuple[np.ndarray, Boxes]:
    samples, m = (5, 6) if SIMULATED else (150, 90)
    x, boxes = case((samples, m, 13, 3), width)
    x[0] = boxes.lower[0]
    labels = np.sort(boxes.labels) + (np.sort(boxes.labels) > 0)  # none is of class 1
    template = labels * m + np.arange(m) // (4 if factored else 1)
    groups = {"group": list(range(13)), **STRUCTURES[name]}
    return x, Boxes(boxes.lower, boxes.upper, labels, width, 4, template=template, **groups)


CASES = list(itertools.product(STRUCTURES, WIDTHS, (True, False)))
if SIMULATED:
    CASES = [
        ("parts", 77, True), ("parts", 255, True), ("parts", 1, False), ("columns", 1, True),
        ("groups", 254, False), ("groups", 255, True), ("pixels", 77, True), ("mixed", 1, True),
        ("mixed", 255, True),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "width", "factored"), CASES)
def test_structured_distances_are_those_of_loops(name: str, width: int, factored: bool) -> None:
    x, boxes = structured(name, width, factored)
    parts = np.array(
        reference.part_distances(
            x, boxes.lower, boxes.upper, width, boxes.part.tolist(), boxes.group.tolist()
        )
    )
    classes = reference.factored_distances(
        parts, boxes.labels.tolist(), boxes.template.tolist(), boxes.n_classes
    )
    np.testing.assert_array_equal(part_distance(x, boxes, device="cuda"), parts)
    np.testing.assert_array_equal(to_host(pairwise_distance(to_gpu(x), boxes)), parts.sum(axis=1))
    np.testing.assert_array_equal(to_host(class_distance(to_gpu(x), boxes)), classes)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_box_distance_of_every_type(dtype: Any) -> None:
    x, boxes = case((3, 5, 6, 2), 77)
    arrays = [side.astype(dtype) for side in (x, boxes.lower, boxes.upper)]
    if dtype != np.uint8:
        arrays = [side / dtype(7) for side in arrays]
    width = 77 if dtype == np.uint8 else 11.5
    found = box_distance(*(to_gpu(side) for side in arrays), width)
    here = box_distance(*arrays, width)
    assert found.dtype == here.dtype
    np.testing.assert_array_equal(to_host(found), here)


def test_results_go_where_they_are_asked_to() -> None:
    x, boxes = case((5, 6, 9, 3), 77)
    there = to_gpu(x)
    for function, columns in ((pairwise_distance, 6), (class_distance, 3)):
        out = to_gpu(np.full((5, columns), -9, np.int32))
        assert function(there, boxes, out=out) is out
        np.testing.assert_array_equal(to_host(out), function(x, boxes))
        with pytest.raises(InputError, match="must be in one memory"):
            function(there, boxes, out=np.empty((5, columns), np.int32))
        with pytest.raises(InputError, match="must be in one memory"):
            function(x, boxes, out=out)
        with pytest.raises(InputError, match=r"it must be C-contiguous int32 of shape"):
            function(there, boxes, out=to_gpu(np.empty((5, columns), np.int64)))


def test_one_class_has_no_radius() -> None:
    with pytest.raises(InputError, match="has one column; a radius needs two classes"):
        certified_radius(to_gpu(np.zeros((4, 1), np.int32)), 1)


def test_arrays_that_do_not_fit() -> None:
    x, boxes = case((5, 6, 9, 3), 77)
    for wrong in (x.astype(np.int32), x[:, :8].copy(), x.reshape(5, 3, 3)):
        with pytest.raises(InputError, match=r"x is .* it must be C-contiguous uint8"):
            class_distance(to_gpu(wrong), boxes)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_change_nothing(chunk: int) -> None:
    x, boxes = case((5, 6, 9, 3), 77)
    pairs, classes = expected(x, boxes)
    backend = get_backend("cuda", 1, chunk)
    for rows in (5, 3, 5):  # buffers of one call serve the next
        out = np.full((rows, 3), -9, np.int32)
        backend.class_distance(x[:rows], laid_out(boxes, backend, "layout"), boxes.width, out)
        np.testing.assert_array_equal(out, classes[:rows])
    out = np.full((5, 6), -9, np.int32)
    backend.part_distances(x, laid_out(boxes, backend, "table"), boxes.width, out)
    np.testing.assert_array_equal(out, pairs)


def test_part_distances_are_kept_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, boxes = structured("mixed", 20, True)
    wanted = class_distance(x, boxes)
    # 12 part distances and 6 words of codes a row.
    monkeypatch.setattr("boxnn_numba.backends.cuda._HELD_BYTES", 2 * 4 * (12 + 6))
    np.testing.assert_array_equal(to_host(class_distance(to_gpu(x), boxes)), wanted)
    backend = get_backend("cuda", 1, 3)
    out = np.full(wanted.shape, -9, np.int32)
    backend.class_distance(x, laid_out(boxes, backend, "layout"), boxes.width, out)
    np.testing.assert_array_equal(out, wanted)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x, boxes = case((5, 6, 9, 3), 77)
    backend = get_backend("cuda", 1, 4)
    layout = laid_out(boxes, backend, "layout")
    backend._buffers = None
    # 12 bytes of padded codes and 12 of results a row, twice.
    monkeypatch.setattr("boxnn_numba.backends.cuda_runtime.free_memory", lambda: 150.0)
    with pytest.raises(BackendError, match=r"needs 0 MiB; pass `chunk` 2$"):
        backend.class_distance(x, layout, boxes.width, np.empty((5, 3), np.int32))
    monkeypatch.setattr("boxnn_numba.backends.cuda_runtime.free_memory", lambda: 10.0)
    with pytest.raises(BackendError, match="use fewer boxes, or `device` cpu"):
        laid_out(case((1, 9, 8, 2), 3)[1], backend, "table")


# --- certificates ---------------------------------------------------------------------------


def test_ensembles_and_offsets() -> None:
    sets = [structured(name, 77, True) for name in ("pixels", "groups")]
    x, (one, two) = sets[0][0], (boxes for _, boxes in sets)
    other = Boxes(two.lower, two.upper, two.labels, 77, 4, group=one.group)
    model = BoxNN(one, list("abcd"), others=(other,), offset=np.array([30, 0, 90, 10]))
    found = to_host(model.class_distance(to_gpu(x)))
    np.testing.assert_array_equal(found, model.class_distance(x))
    here, there = model.certify(x), model.certify(to_gpu(x))
    np.testing.assert_array_equal(to_host(there.radius), here.radius)


@pytest.mark.parametrize("convention", ["sound", "paper"])
@pytest.mark.parametrize("group_size", [1, 3])
def test_certificates_are_those_of_the_cpu(convention: str, group_size: int) -> None:
    distance = np.random.default_rng(4).integers(0, 60, (23, 4), dtype=np.int32)
    distance[:6] //= 20  # ties
    distance[3, 2] = 2**31 - 1
    width = 3
    here = certified_radius(distance, width, group_size, convention)
    there = certified_radius(to_gpu(distance), width, group_size, convention)
    for a, b in zip(here, there, strict=True):
        assert b.dtype == np.int32
        np.testing.assert_array_equal(a, to_host(b))
    if convention == "sound":
        for row, p, r in zip(distance.tolist(), *here, strict=True):
            limit = 200  # of the search by trying
            assert reference.certificate(row, width, group_size, limit=limit) == (p, min(r, limit))
    y = np.random.default_rng(5).integers(0, 4, 23, dtype=np.int32)
    radii = [0, 2, 1, 9, 9, 50]
    np.testing.assert_array_equal(
        certified_accuracy(*there, to_gpu(y), radii), certified_accuracy(*here, y, radii)
    )


def test_axes_in_another_order_on_the_gpu() -> None:
    x, boxes = case((5, 6, 12, 3), 20)
    model = BoxNN(boxes, "abc", feature_shape=(3, 4))
    with pytest.raises(InputError, match=r"samples of shape \(4, 3\) and the model has \(3, 4\)"):
        model.encode(to_gpu(x.reshape(5, 4, 3)))


@pytest.mark.parametrize("classes", [[3, 5, 8], ["a", "b", "c"]])
def test_model_on_arrays_of_the_gpu(classes: list[Any]) -> None:
    x, boxes = case((5, 6, 9, 3), 20)
    model = BoxNN(boxes, classes, feature_shape=(3, 3))
    prediction, radius = model.certify(x)
    for samples in (to_gpu(x), to_gpu(x.reshape(5, 3, 3))):
        found = model.certify(samples)
        assert on_gpu(found.radius)
        np.testing.assert_array_equal(to_host(found.radius), radius)
        for labels in (found.prediction, model.predict(samples)):
            labels = to_host(labels) if on_gpu(labels) else labels
            np.testing.assert_array_equal(labels, prediction)
    sent = model.certify(x, device="cuda", chunk=2)
    np.testing.assert_array_equal(sent.prediction, prediction)
    np.testing.assert_array_equal(sent.radius, radius)
    np.testing.assert_array_equal(model.predict(x, device="cuda"), prediction)
    assert to_host(model.certify(to_gpu(x.reshape(5, 3, 3))[:0]).radius).shape == (0,)
    assert class_distance(to_gpu(x[:0]), boxes).shape == (0, 3)
    assert box_distance(to_gpu(x[:0]), *map(to_gpu, (boxes.lower, boxes.upper))).shape == (0, 6)
    assert model.certify(x[:0], device="cuda").radius.shape == (0,)
    lazily = model.certify(da.from_array(x, 2), device="cuda").radius
    np.testing.assert_array_equal(lazily.compute(scheduler="threads"), radius)
