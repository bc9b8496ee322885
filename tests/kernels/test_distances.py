"""Distances against loops, on every instruction set, for every type, with any number of threads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import reference, target_check

from boxnn_numba import Boxes, box_distance, class_distance, pairwise_distance
from boxnn_numba.errors import InputError
from boxnn_numba.kernels import simd, simd_operations


@pytest.fixture(scope="module")
def here() -> dict[str, np.ndarray]:
    """What this process computes."""
    return target_check.results("full")


def elsewhere(folder: Path, what: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `target_check` in another process."""
    words = [sys.executable, target_check.__file__, str(folder / "found.npz"), what]
    environment = {**os.environ, **variables}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def usable_targets() -> list[str]:
    import llvmlite.binding as llvm

    host = llvm.get_host_cpu_features()
    return [
        name
        for name, needs in simd_operations._NEEDS.items()
        if all(host.get(flag) for flag in needs)
    ]


@pytest.mark.parametrize("width", target_check.WIDTHS)
@pytest.mark.parametrize("shape", target_check.SHAPES["full"], ids=str)
def test_distances_are_those_of_loops(
    here: dict[str, np.ndarray], shape: tuple[int, int, int, int], width: int
) -> None:
    x, boxes = target_check.case(shape)
    pairs = reference.distances(x, boxes.lower, boxes.upper, width)
    np.testing.assert_array_equal(here[f"{shape} pairs {width}"], pairs)
    classes = reference.class_distances(pairs, boxes.labels.tolist(), shape[3])
    np.testing.assert_array_equal(here[f"{shape} classes {width}"], classes)
    assert here[f"{shape} pairs {width}"].dtype == here[f"{shape} classes {width}"].dtype == "int32"


@pytest.mark.parametrize("width", target_check.WIDTHS)
def test_largest_distances(here: dict[str, np.ndarray], width: int) -> None:
    farthest = 784 * width
    middle = 784 * min(width, 128), 784 * min(width, 127)
    expected = [[farthest, 0, middle[0]], [0, farthest, middle[1]]]
    assert here[f"extreme pairs {width}"].tolist() == expected
    assert here[f"extreme classes {width}"].tolist() == expected


@pytest.mark.parametrize("width", target_check.WIDTHS)
def test_boxes_that_are_left_early_do_not_matter(here: dict[str, np.ndarray], width: int) -> None:
    _, boxes = target_check.clustered()
    pairs, classes = here[f"clustered pairs {width}"], here[f"clustered classes {width}"]
    for c in range(7):
        np.testing.assert_array_equal(classes[:, c], pairs[:, boxes.labels == c].min(axis=1))
    assert (classes[:, 7] == reference.UNREACHABLE).all()


def test_few_codes(here: dict[str, np.ndarray]) -> None:
    for name in [name for name in here if "features, " in name and "classes" in name]:
        pairs, labels = (here[name.replace("classes", other)] for other in ("pairs", "labels"))
        expected = reference.class_distances(pairs, labels.tolist(), 5)
        np.testing.assert_array_equal(here[name], expected, err_msg=name)


#: A width, after which part of the penalties a tile may be left, and whether bits are sliced.
ANY_PLAN: dict[str, Any] = {
    "width": st.one_of(st.sampled_from((1, 254, 255)), st.integers(1, 255)),
    "probe": st.sampled_from([0.0, 0.3, 0.94, 1.0]),
    "sliced": st.booleans(),
}


def _plan(monkeypatch: pytest.MonkeyPatch, probe: float, sliced: bool) -> None:
    monkeypatch.setattr("boxnn_numba.backends.box_layout._PROBE_SHARE", probe)
    monkeypatch.setattr("boxnn_numba.backends.slices._PER_CODE", 1e9 if sliced else 0.0)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 300), st.integers(1, 300)),
    classes=st.integers(1, 30),
    **ANY_PLAN,
)
def test_class_distances_of_any_shape(
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    shape: tuple[int, int, int],
    classes: int,
    width: int,
    probe: float,
    sliced: bool,
) -> None:
    """Columns of all kinds in any order, and looking early or late whether to leave."""
    _plan(monkeypatch, probe, sliced)
    rng = np.random.default_rng(seed)
    n_samples, n_boxes, n_features = shape
    x = rng.integers(0, 256, (n_samples, n_features), dtype=np.uint8)
    centres = rng.integers(0, 256, (n_boxes, n_features))
    half = rng.choice([0, 3, 60, 255], n_features, p=rng.dirichlet([0.4] * 4))
    lower, upper = np.clip(centres - half, 0, 255), np.clip(centres + half, 0, 255)
    boxes = Boxes(lower, upper, rng.integers(0, classes, n_boxes), width, classes)
    near = rng.integers(0, n_boxes, n_samples)
    close = rng.random(x.shape) < rng.choice([0.0, 0.8, 1.0])
    x[close] = centres[near][close]
    codes, low, high = (a.astype(np.int32) for a in (x[:, None], boxes.lower, boxes.upper))
    pairs = np.minimum(np.maximum(np.maximum(low - codes, codes - high), 0), width).sum(axis=2)
    expected = reference.class_distances(pairs, boxes.labels.tolist(), classes)
    np.testing.assert_array_equal(pairwise_distance(x, boxes), pairs)
    np.testing.assert_array_equal(class_distance(x, boxes), expected)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 40), st.integers(2, 300)),
    n_parts=st.integers(2, 80),
    **ANY_PLAN,
)
def test_class_distances_of_any_templates(
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    shape: tuple[int, int, int],
    n_parts: int,
    width: int,
    probe: float,
    sliced: bool,
) -> None:
    """Parts of all sizes, and templates of one row up to more than stay in the cache."""
    _plan(monkeypatch, probe, sliced)
    rng = np.random.default_rng(seed)
    n_samples, n_templates, n_features = shape
    part = rng.integers(0, n_parts, n_features) ** 2 // n_parts
    part = np.unique(part, return_inverse=True)[1]
    sizes = rng.choice([1, 2, 7, 45], n_templates, p=[0.3, 0.3, 0.3, 0.1])
    template = np.repeat(np.arange(n_templates), sizes)
    labels = np.sort(rng.integers(0, 4, n_templates))[template]
    reach = rng.choice([2, 256])
    lower, upper = np.sort(rng.integers(0, reach, (2, len(template), n_features)), axis=0)
    x = rng.integers(0, reach, (n_samples, n_features))
    boxes = Boxes(lower, upper, labels, width, 4, template=template, part=part)
    outside = np.maximum(np.maximum(lower - x[:, None], x[:, None] - upper), 0)
    penalty = np.minimum(outside, width)
    parts = np.stack([penalty[:, :, part == p].sum(axis=2) for p in range(part.max() + 1)], axis=1)
    expected = reference.factored_distances(parts, labels.tolist(), template.tolist(), 4)
    np.testing.assert_array_equal(class_distance(x.astype(np.uint8), boxes), expected)


def test_counts_beyond_a_byte() -> None:
    """More features outside than a byte counts, in a row and in a lane of samples."""
    n = 255 * simd.GROUP + 9
    lower = np.array([[0] * n, [9] * n, [255] * n], np.uint8)
    boxes = Boxes(lower, lower, [0, 1, 2])
    x = np.repeat(np.array([[0] * n, [9] * n, [255] * n, [9] * 8 + [1] * (n - 8)], np.uint8), 9, 0)
    expected = [[0, n, n], [n, 0, n], [n, n, 0], [n, n - 8, n]]
    assert class_distance(x, boxes)[::9].tolist() == expected


@pytest.mark.parametrize("target", simd_operations.TARGETS)
def test_every_instruction_set_gives_the_same_bits(
    here: dict[str, np.ndarray], target: str, tmp_path: Path
) -> None:
    if target not in usable_targets():
        done = elsewhere(tmp_path, "tiny", BOXNN_SIMD=target)
        assert done.returncode != 0 and "which this processor lacks; it has" in done.stderr
        return
    what = "full" if target == "plain" else "distances"
    done = elsewhere(tmp_path, what, BOXNN_SIMD=target)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz", allow_pickle=False) as found:
        assert set(found.files) == set(here if what == "full" else target_check.distances("full"))
        for name in found.files:
            assert found[name].tobytes() == here[name].tobytes(), name


def test_without_the_compiler(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "tiny", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr
    expected = target_check.results("tiny")
    with np.load(tmp_path / "found.npz", allow_pickle=False) as found:
        assert set(found.files) == set(expected)
        for name in found.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_unknown_instruction_set_is_refused(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "tiny", BOXNN_SIMD="mmx")
    assert done.returncode != 0
    assert "BOXNN_SIMD is 'mmx'; it must be auto or one of" in done.stderr


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code = (
        "from boxnn_numba import Boxes, class_distance\n"
        "print(class_distance([[9, 9]], Boxes([[0, 0], [5, 20]], [[9, 5], [8, 30]], [0, 1], 3)))"
    )
    environment = {**os.environ, "BOXNN_CACHE_DIR": str(tmp_path / "file" / "cache")}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[[3 4]]\n"), done.stderr


@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_threads_change_nothing(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXNN_NUM_THREADS", threads)
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (333, 5), dtype=np.uint8)
    ends = np.sort(rng.integers(0, 256, (2, 70, 5), dtype=np.uint8), axis=0)
    boxes = Boxes(*ends, np.arange(70) % 6, 77)
    pairs = np.array(reference.distances(x, boxes.lower, boxes.upper, 77))
    np.testing.assert_array_equal(pairwise_distance(x, boxes), pairs)
    classes = reference.class_distances(pairs, boxes.labels.tolist(), 6)
    np.testing.assert_array_equal(class_distance(x, boxes), classes)
    as_floats = box_distance(*(a.astype(np.float32) for a in (x, boxes.lower, boxes.upper)), 77)
    np.testing.assert_array_equal(as_floats, pairs)


@pytest.mark.parametrize("shape", target_check.SHAPES["full"], ids=str)
def test_types_agree_on_codes(shape: tuple[int, int, int, int]) -> None:
    x, boxes = target_check.case(shape)
    for width in (1, 89, 255):
        arrays = x, boxes.lower, boxes.upper
        found = [
            box_distance(*(array.astype(dtype) for array in arrays), width)
            for dtype in (np.uint8, np.float32, np.float64)
        ]
        assert [array.dtype for array in found] == [np.int32, np.float32, np.float64]
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-14)])
def test_real_features(dtype: type, tolerance: float) -> None:
    rng = np.random.default_rng(2)
    for n, m, k in itertools.product((1, 5), (1, 65), (1, 9)):
        x = rng.normal(0, 2, (n, k)).astype(dtype)
        lower = rng.normal(-1, 1, (m, k)).astype(dtype)
        upper = lower + rng.random((m, k)).astype(dtype)
        expected = reference.distances(x, lower, upper, 0.75)
        found = box_distance(x, lower, upper, 0.75)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * 0.75 * k)


def test_open_sides() -> None:
    inf = np.inf
    found = box_distance([[-1e300, 5.0]], [[-inf, 6.0], [0.0, -inf]], [[inf, inf], [1.0, 4.0]], 3)
    assert found.tolist() == [[1.0, 4.0]]


def test_boxes_keep_their_order_whatever_their_labels() -> None:
    rng = np.random.default_rng(3)
    ends = np.sort(rng.integers(0, 256, (2, 20, 4), dtype=np.uint8), axis=0)
    labels = rng.integers(0, 4, 20)
    boxes = Boxes(*ends, labels, 50)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(boxes.labels, labels[order])
    np.testing.assert_array_equal(boxes.lower, ends[0][order])
    np.testing.assert_array_equal(boxes.upper, ends[1][order])
    counts = [int((labels == c).sum()) for c in range(4)]
    assert np.diff(boxes.offsets).tolist() == counts
    x = rng.integers(0, 256, (9, 4), dtype=np.uint8)
    np.testing.assert_array_equal(
        pairwise_distance(x, boxes)[:, np.argsort(order)], box_distance(x, *ends, 50)
    )
    with pytest.raises(ValueError, match="read-only"):
        boxes.lower[0, 0] = 1


def test_out_is_filled_and_returned() -> None:
    x, boxes = target_check.case((5, 7, 65, 3))
    for function, columns in ((pairwise_distance, 7), (class_distance, 3)):
        out = np.full((5, columns), -9, np.int32)
        assert function(x, boxes, out=out) is out
        np.testing.assert_array_equal(out, function(x, boxes))
        for wrong in (
            np.empty((5, columns + 1), np.int32),
            np.empty((5, columns), np.int64),
            np.empty((columns, 5), np.int32).T,
        ):
            with pytest.raises(InputError, match="it must be C-contiguous int32 of"):
                function(x, boxes, out=wrong)


def test_layout_of_the_input_does_not_matter() -> None:
    x, boxes = target_check.case((6, 9, 31, 9))
    expected = class_distance(x, boxes)
    wide = np.zeros((12, 62), np.uint8)
    wide[::2, ::2] = x
    for same in (
        np.asfortranarray(x),
        wide[::2, ::2],
        x.astype(">i4"),
        x.astype(float),
        x.tolist(),
    ):
        np.testing.assert_array_equal(class_distance(same, boxes), expected)


def test_a_class_without_boxes_is_never_predicted() -> None:
    boxes = Boxes([[10], [20]], [[12], [22]], [1, 3], width=5, n_classes=5)
    found = class_distance([[11], [255]], boxes)
    assert found.tolist() == [
        [2**31 - 1, 0, 2**31 - 1, 5, 2**31 - 1],
        [2**31 - 1, 5, 2**31 - 1, 5, 2**31 - 1],
    ]


#: Computes with two threads, and again in a process that is forked then; its status is the child's.
FORKED = """
import os, signal
import numpy as np
from boxnn_numba import Boxes, class_distance
x = np.random.default_rng(0).integers(0, 256, (2000, 99), np.uint8)
boxes = Boxes(x[:300], x[:300], np.arange(300) % 3, 90)
here = class_distance(x, boxes)
child = os.fork()
if child:
    raise SystemExit(os.waitpid(child, 0)[1] != 0)
signal.alarm(60)
os._exit(int((class_distance(x, boxes) != here).any()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="fork of POSIX")
def test_a_forked_process_has_threads_of_its_own() -> None:
    environment = {**os.environ, "BOXNN_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-P", "-c", FORKED], env=environment, check=True)
