"""Copies of boxes on workers, and the ways arguments reach them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cluster_tools import OPTIONS, Work, assert_same_model, make_work

from boxnn_numba.backends.box_layout import box_table
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines.cluster import dask_executor
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.cluster.tasks import ArrayFile
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training import box_copies
from boxnn_numba.pipelines.training import cluster_trainer as cluster_training
from boxnn_numba.pipelines.training.box_copies import (
    BoxSender,
    apply_changes,
    changes,
    current_boxes,
)
from boxnn_numba.pipelines.training.train import train


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def no_copies() -> Iterator[None]:
    box_copies._copies.clear()
    yield
    box_copies._copies.clear()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12), columns=st.integers(1, 300), share=st.sampled_from([0, 0.001, 0.2, 1]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_changes_make_one_table_into_another(
    rows: int, columns: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 256, (rows, columns), np.uint8)
    after = before.copy()
    chosen = rng.random(after.shape) < share
    after[chosen] = rng.integers(0, 256, int(chosen.sum()), np.uint8)
    # Elsewhere rows may be padded, and features stand in other columns.
    same, wider = before.copy(), np.full((rows + 1, columns + 5), 7, np.uint8)
    place = rng.permutation(columns + 5)[:columns]
    wider[:rows, place] = before
    gaps, codes = changes(before, after)
    np.testing.assert_array_equal(before, after)
    assert len(gaps) == len(codes) <= (before.size // 255 + 1) + int(chosen.sum())
    apply_changes(same, gaps, codes, np.arange(columns))
    apply_changes(wider, gaps, codes, place)
    np.testing.assert_array_equal(same, after)
    np.testing.assert_array_equal(wider[:rows, place], after)
    assert (wider[rows:] == 7).all() and (np.delete(wider, place, axis=1) == 7).all()


def _moved(backend: CpuBackend, steps: int) -> Iterator[tuple[np.ndarray, tuple[object, ...]]]:
    """Yield lower bounds after each step, and the message that a worker gets."""
    rng = np.random.default_rng(0)
    lower = rng.integers(0, 200, (7, 70), np.uint8)
    table, sender = box_table(lower, lower + 20), BoxSender(backend)
    inputs = SimpleNamespace(structure=Structure.plain(np.array([0, 7]), 70))
    for _ in range(steps):
        table.lower[rng.integers(7), rng.integers(70)] ^= 1
        yield table.bounds()[0].copy(), sender.update(table, inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_copy_follows(threads: int) -> None:
    for index, (lower, message) in enumerate(_moved(CpuBackend(threads), 5)):
        assert len(message) == (3 if index == 0 else 5)
        for _ in range(2):  # tasks of one step share the copy
            copy = current_boxes(*message)  # type: ignore[arg-type]
            assert copy is not None and copy.number == index + 1
            np.testing.assert_array_equal(copy.table.bounds()[0], lower)
            np.testing.assert_array_equal(copy.table.lower[:, 70:], 0)


def test_who_missed_a_step_says_so() -> None:
    backend = get_backend("cpu", 1)
    messages = [message for _, message in _moved(backend, 4)]
    assert current_boxes(*messages[1]) is None  # type: ignore[arg-type]
    assert current_boxes(*messages[0]) is not None  # type: ignore[arg-type]
    assert current_boxes(*messages[2]) is None  # type: ignore[arg-type]
    assert current_boxes(*messages[1]) is not None  # type: ignore[arg-type]
    # A task of an earlier step that comes late harms nothing.
    assert current_boxes(messages[1][0]) is not None  # type: ignore[arg-type]
    assert current_boxes(*messages[2]) is not None  # type: ignore[arg-type]
    assert current_boxes(*messages[1]) is None  # type: ignore[arg-type]
    assert current_boxes(*messages[3]) is not None  # type: ignore[arg-type]


def test_an_update_that_fails_half_way_leaves_no_copy() -> None:
    messages = [message for _, message in _moved(get_backend("cpu", 1), 2)]
    current_boxes(*messages[0])  # type: ignore[arg-type]
    update, *arrays = messages[1]
    arrays[3] = arrays[3][:0]  # type: ignore[index]
    with pytest.raises((ValueError, IndexError)):
        current_boxes(update, *arrays)  # type: ignore[arg-type]
    assert current_boxes(*messages[1]) is None  # type: ignore[arg-type]


def test_two_runs_share_a_worker_and_a_third_takes_a_place() -> None:
    first, second, third = ([m for _, m in _moved(get_backend("cpu", 1), 2)] for _ in range(3))
    for run in (first, second, third):
        assert current_boxes(*run[0]) is not None  # type: ignore[arg-type]
    assert current_boxes(*first[1]) is None  # type: ignore[arg-type]
    assert current_boxes(*third[1]) is not None  # type: ignore[arg-type]
    assert current_boxes(*second[1]) is not None  # type: ignore[arg-type]


# --- how arguments travel ------------------------------------------------------------------


def test_calls_tasks_and_files_give_the_same_bits(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything counts as large, every step is cut, and some workers have no task in a step.
    monkeypatch.setattr(dask_executor, "_LARGE_HERE", 1)
    monkeypatch.setattr(dask_executor, "LARGE_ARGUMENT", 1)
    monkeypatch.setattr(cluster_training, "TASK_SECONDS", 1e-9)
    real = dask_executor.DaskExecutor.__init__
    ways: list[object] = []

    def tasks_only(self: dask_executor.DaskExecutor, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        self.direct, self._exchange = False, None

    def full_disk(self: dask_executor.DaskExecutor, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        self._exchange = tmp_path / "nowhere"

    for name, start in (("files", real), ("full disk", full_disk), ("tasks", tasks_only)):
        monkeypatch.setattr(dask_executor.DaskExecutor, "__init__", start)
        cluster = ClusterOptions(workers=2, threads_per_worker=1)
        result = train(work.data, tmp_path / name, OPTIONS, run=RunOptions(cluster=cluster))
        assert result.cluster is not None
        ways.append(result.cluster.tasks / result.cluster.steps)
        assert_same_model(tmp_path / name, work)
    assert min(ways) > 3


def test_what_fails_on_a_worker_is_raised_here() -> None:
    with connect(ClusterOptions(workers=1, threads_per_worker=1)) as executor:
        assert isinstance(executor, dask_executor.DaskExecutor) and executor.direct
        with pytest.raises(ZeroDivisionError):
            executor.ask(operator.truediv, [(1, 0)], (), ())
        words = "a task ran out of memory on a worker; give the workers more memory or fewer"
        with pytest.raises(ClusterError, match=words), executor.failures():
            executor.ask(bytearray, [(2**62,)], (), ())


def test_files_of_arguments_are_removed(tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(ArrayFile.write(tmp_path, array).read(), array)
    with connect(ClusterOptions(workers=1, threads_per_worker=1)) as executor:
        assert isinstance(executor, dask_executor.DaskExecutor)
        folder = executor._exchange
        assert folder is not None
        assert isinstance(executor.place(np.zeros(2**20)), ArrayFile)
        assert len(list(folder.iterdir())) == 1
        executor.forget_placed()
        assert list(folder.iterdir()) == []
    assert not folder.exists()
