"""Copies of boxes on workers, and the ways arguments reach them."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cluster_tools import OPTIONS, Scheduler, Work, assert_same_model, make_work

from boxnn_numba.backends.box_layout import box_table, packed_frame
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines.cluster import calls, dask_executor
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training import box_copies
from boxnn_numba.pipelines.training import cluster_trainer as cluster_training
from boxnn_numba.pipelines.training.box_copies import (
    BoxCopy,
    BoxSender,
    BoxUpdate,
    Changes,
    current_boxes,
)
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.softmin_stages import Entries


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def no_copies() -> Iterator[None]:
    box_copies._copies.clear()
    yield
    box_copies._copies.clear()


def _structure(parts: int, group: int, n: int) -> Structure:
    """Return 7 boxes of n features in parts that take turns."""
    groups = np.arange(n) // group
    return Structure(np.arange(8), np.array([0, 7]), groups % parts, groups)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300), share=st.sampled_from([0, 0.001, 0.2, 1]), seed=st.integers(0, 99),
    parts=st.integers(1, 3), group=st.integers(1, 3), block=st.integers(1, 9),
)  # fmt: skip
def test_changes_make_one_table_into_another(
    n: int, share: float, seed: int, parts: int, group: int, block: int
) -> None:
    rng = np.random.default_rng(seed)
    structure = _structure(min(parts, -(-n // group)), group, n)
    frame, spans = packed_frame(structure)
    before, after = rng.integers(0, 256, (2, 2, 7, n), np.uint8)
    after = np.where(rng.random(after.shape) < share, after, before)
    laid_out = [tuple(frame.padded(side, 7, 9) for side in pair) for pair in (before, after)]
    problem = SimpleNamespace(structure=structure)
    sender = BoxSender()
    sender.advance(laid_out[0], problem)  # type: ignore[arg-type]
    cells = np.arange(7 * structure.n_parts)
    for first in reversed(range(0, len(cells), block)):
        shape = frame.planes, frame.columns
        sender.collect(cells[first : first + block], spans, shape, laid_out[1])
    sender.advance(laid_out[1], problem)  # type: ignore[arg-type]
    for first, last in ((0, 7), (2, 5)):
        message = sender.changes((first, last))
        assert message is not None
        update, *arrays = message
        whole = BoxUpdate("", 1, (first, last), problem)  # type: ignore[arg-type]
        moved = BoxCopy.of(whole, *before[:, first:last]).moved(update, Changes(*arrays))
        for found, expected in zip(moved.table.bounds(), after[:, first:last], strict=True):
            np.testing.assert_array_equal(found, expected)
        changed = int((before[:, first:last] != after[:, first:last]).sum())
        assert len(arrays[2]) == len(arrays[3]) <= changed * (1 + n // 255)
    # The client knows what the workers have now.
    sender.collect(cells, spans, (frame.planes, frame.columns), laid_out[1])
    sender.advance(laid_out[1], problem)  # type: ignore[arg-type]
    assert len(sender.changes((0, 7))[3]) == 0  # type: ignore[index]


def _moved(steps: int) -> Iterator[tuple[np.ndarray, tuple[object, ...]]]:
    """Yield lower bounds after each step, and the message that a worker gets."""
    rng = np.random.default_rng(0)
    lower = rng.integers(0, 200, (7, 70), np.uint8)
    inputs = SimpleNamespace(structure=Structure.plain(np.array([0, 7]), 70))
    frame, spans = packed_frame(inputs.structure)
    table, sender = box_table(lower, lower + 20, frame), BoxSender()
    codes = table.lower, table.upper
    for _ in range(steps):
        table.lower[rng.integers(7), rng.integers(70)] ^= 1
        sender.collect(np.arange(7), spans, (1, frame.columns), codes)
        sender.advance(codes, inputs)  # type: ignore[arg-type]
        message = sender.changes((0, 7)) or sender.whole((0, 7), table)
        yield table.bounds()[0].copy(), message


def test_a_copy_follows() -> None:
    for index, (lower, message) in enumerate(_moved(5)):
        assert len(message) == (3 if index == 0 else 5)
        for _ in range(2):  # calls of one step share the copy
            copy = current_boxes(*message)  # type: ignore[arg-type]
            assert copy is not None and copy.number == index + 1
            np.testing.assert_array_equal(copy.table.bounds()[0], lower)
            np.testing.assert_array_equal(copy.table.lower[:, 70:], 0)


def test_who_missed_a_step_says_so() -> None:
    messages = [message for _, message in _moved(4)]
    assert current_boxes(*messages[1]) is None  # type: ignore[arg-type]
    assert current_boxes(*messages[0]) is not None  # type: ignore[arg-type]
    assert current_boxes(*messages[2]) is None  # type: ignore[arg-type]
    assert current_boxes(*messages[1]) is not None  # type: ignore[arg-type]
    # A call of an earlier step that comes late harms nothing.
    assert current_boxes(messages[1][0]) is not None  # type: ignore[arg-type]
    assert current_boxes(*messages[2]) is not None  # type: ignore[arg-type]
    assert current_boxes(*messages[1]) is None  # type: ignore[arg-type]
    assert current_boxes(*messages[3]) is not None  # type: ignore[arg-type]


def test_an_update_that_fails_half_way_leaves_no_copy() -> None:
    messages = [message for _, message in _moved(2)]
    current_boxes(*messages[0])  # type: ignore[arg-type]
    update, *arrays = messages[1]
    with pytest.raises(TypeError):
        current_boxes(update, *arrays[:-1])  # type: ignore[arg-type]
    assert current_boxes(*messages[1]) is None  # type: ignore[arg-type]


def test_two_runs_share_a_worker_and_a_third_takes_a_place() -> None:
    first, second, third = ([m for _, m in _moved(2)] for _ in range(3))
    for run in (first, second, third):
        assert current_boxes(*run[0]) is not None  # type: ignore[arg-type]
    assert current_boxes(*first[1]) is None  # type: ignore[arg-type]
    assert current_boxes(*third[1]) is not None  # type: ignore[arg-type]
    assert current_boxes(*second[1]) is not None  # type: ignore[arg-type]


def test_entries_travel_narrow() -> None:
    entries = Entries(
        np.arange(3, dtype=np.int32), np.array([0, 7, 70_000], np.int32), np.array([-1, 5, 2**20])
    )
    parts = [cluster_training.packed(entries)] * 2
    assert [array.dtype for array in parts[0]] == [np.uint8, np.uint32, np.int32]
    found = cluster_training.joined(
        [*parts, cluster_training.packed(entries.first(0))], [0, 300, 5], [1, 0, 5]
    )
    np.testing.assert_array_equal(found.samples, [0, 1, 2, 300, 301, 302])
    np.testing.assert_array_equal(found.boxes, [1, 8, 70_001, 0, 7, 70_000])
    np.testing.assert_array_equal(found.coefficients, [-1, 5, 2**20] * 2)
    assert found.coefficients.dtype == np.int64


# --- how calls travel -----------------------------------------------------------------------


@pytest.mark.parametrize("shards", [0, 3])
def test_calls_past_and_by_the_scheduler_give_the_same_bits(
    shards: int,
    work: Work,
    external: Scheduler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every step is cut, and some workers have no call in a step.
    monkeypatch.setattr(cluster_training, "TASK_SECONDS", 1e-9)
    cluster = ClusterOptions(scheduler=external.address, box_shards=shards)
    reached = dask_executor.DaskExecutor._calls_of_workers
    for name, reach in (("past", reached), ("by", lambda self: None)):
        monkeypatch.setattr(dask_executor.DaskExecutor, "_calls_of_workers", reach)
        result = train(work.data, tmp_path / name, OPTIONS, run=RunOptions(cluster=cluster))
        assert result.cluster is not None and result.cluster.tasks > 3 * result.cluster.steps
        assert_same_model(tmp_path / name, work)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give up on an address where nobody listens after 5 seconds and not 30, on workers too."""
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "5s")
    with dask.config.set({"distributed.comm.timeouts.connect": "5s"}):
        yield


@pytest.mark.usefixtures("impatient")
def test_workers_pass_on_what_is_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(ClusterOptions(workers=3, threads_per_worker=2)) as executor:
        assert isinstance(executor, dask_executor.DaskExecutor)
        monkeypatch.setattr(calls, "FAN", 1)
        asked = [(name, (index,)) for index, name in enumerate(executor.seats)]
        assert executor.call_each(operator.sub, asked, (10,)) == [-10, -9, -8, -7, -6, -5]
        # Who cannot be reached by another worker is not called again for a while; the rest is.
        lost = "tls://127.0.0.1:1"
        executor.workers[lost] = 1
        with pytest.raises(OSError, match=r"127\.0\.0\.1:1: "):
            executor.call_each(operator.sub, [*asked, (lost, (1,))], (10,))
        assert set(executor._unreachable) == {lost}
        with pytest.raises(ZeroDivisionError):
            executor.call_each(operator.floordiv, asked, (0,))


@pytest.mark.usefixtures("impatient")
def test_what_fails_on_a_worker_is_raised_here() -> None:
    async def there_by(names: list[str], dask_worker: Any) -> Any:
        return await dask_worker.scheduler.ncores(workers=names)

    with connect(ClusterOptions(workers=1, threads_per_worker=1)) as executor:
        assert isinstance(executor, dask_executor.DaskExecutor) and executor.direct
        worker = executor.seats[0]
        with pytest.raises(ZeroDivisionError):
            executor.call_each(operator.truediv, [(worker, (1, 0))])
        words = "a task ran out of memory on a worker; give the workers more memory or fewer"
        with pytest.raises(ClusterError, match=words), executor.failures():
            executor.ask(bytearray, [(2**62,)], (), (), tuple)
        with pytest.raises(OSError, match=r"127\.0\.0\.1:1: "):
            executor.call_each(operator.neg, [(worker, (1,)), ("tls://127.0.0.1:1", (2,))])
        executor.count_workers(0)
        assert executor.call_each(operator.neg, [(worker, (1,)), (worker, (2,))]) == [-1, -2]
        # A worker that has not heard of the plugin yet is like one that is lost.
        executor.client.unregister_worker_plugin(executor._calls.name)
        with pytest.raises(OSError, match="does not answer calls yet"):
            executor.call_each(operator.neg, [(worker, (1,))])
        # What is asked of the scheduler while a worker does not answer, here and on workers.
        assert executor._calls is not None
        for names, there in (([worker], {worker: 1}), (["tls://127.0.0.1:1"], {})):
            ncores = executor._calls._scheduler.ncores
            assert executor.client.sync(ncores, workers=names) == there
            on_worker = executor.client.run(there_by, names)
            assert on_worker == {worker: there}
        # One that is closing has no threads left; what its server says then is no answer.
        executor.client.register_plugin(calls.AnswersCalls(executor._calls.name))
        executor.client.run(lambda dask_worker: dask_worker.executor.shutdown())
        with pytest.raises(OSError, match="after shutdown"):
            executor.call_each(operator.neg, [(worker, (1,))])


def test_a_worker_that_hangs_is_lost_when_the_scheduler_gives_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, aborted = iter([{"w": 1}, {"w": 1}, {}]), []

    async def nothing(*_: Any, **__: Any) -> None: ...

    async def ncores(workers: list[str]) -> dict[str, int]:
        assert workers == ["w"]
        return next(looks)

    comm = SimpleNamespace(
        write=nothing, read=lambda: asyncio.sleep(60), abort=lambda: aborted.append("w")
    )

    async def connect(*_: Any, **__: Any) -> Any:
        return comm

    monkeypatch.setattr(calls, "connect", connect)
    monkeypatch.setattr(calls, "LOOK_SECONDS", 0.01)
    caller = calls.Calls("call", {}, SimpleNamespace(ncores=ncores))
    (found,) = asyncio.run(caller.call(operator.neg, (), [("w", [(1,)])]))
    assert isinstance(found, calls.LostWorkerError) and "given it up" in str(found)
    assert aborted == ["w"] and next(looks, None) is None


def test_workers_that_are_away_for_a_moment_are_waited_for(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dask_executor.DaskExecutor.count_workers
    away = itertools.count()

    def count_workers(self: dask_executor.DaskExecutor, age: float = 5.0) -> None:
        real(self, age)
        if age and next(away) == 2:
            self.workers = {}

    monkeypatch.setattr(dask_executor.DaskExecutor, "count_workers", count_workers)
    with connect(ClusterOptions(workers=1, threads_per_worker=1)) as executor:
        assert isinstance(executor, dask_executor.DaskExecutor)
        train(work.data, tmp_path / "m", OPTIONS, client=executor.client)
        assert next(away) > 3
        assert_same_model(tmp_path / "m", work)
        submitted = []
        submit = executor.submit
        monkeypatch.setattr(executor, "submit", lambda *of: submitted.append(of[1]) or submit(*of))
        mapped = executor.map(operator.neg, range(20))
        next(mapped)
        assert submitted == list(range(3 + 1))
        executor.workers["tls://127.0.0.1:1"] = 1  # one that joins
        next(mapped)
        assert submitted == list(range(6 + 2))
        assert len(list(mapped)) == 18 and submitted == list(range(20))
        executor.workers = {}
        assert sorted(executor.map(operator.neg, [1, 2, 3, 4])) == [(n, -n) for n in (1, 2, 3, 4)]
