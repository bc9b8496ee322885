"""The executor that works on a Dask cluster: tasks through its scheduler, short calls past it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba.data.paths import absolute
from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines.cluster.connection import check_workers
from boxnn_numba.pipelines.cluster.tasks import ArrayFile, in_one_thread, in_worker

if TYPE_CHECKING:
    from distributed import Client

#: Tasks that wait at each slot of a worker, so that none idles.
_QUEUED = 3
#: How long to wait for a worker to be restarted.
_RESTART_SECONDS = 60
_POLL_SECONDS = 0.1
#: How often to look for workers that joined, and how long to do without one that was lost.
_COUNT_SECONDS, _AVOID_SECONDS = 5.0, 5.0
#: Arguments of this size go to workers on this machine through a file.
_LARGE_HERE = 2**16
#: Arguments of tasks of this size bypass the scheduler, which passes on only small ones well.
LARGE_ARGUMENT = 4 * 2**20


class DaskExecutor:
    """Runs chunks as tasks on a cluster, each in one thread of a worker."""

    def __init__(self, client: Client, box_shards: int = 0, exchange: Path | None = None) -> None:
        self.client = client
        self.box_shards = box_shards
        self._exchange = exchange
        self._exchanged: list[ArrayFile] = []
        #: Threads of each worker, and seconds that large arguments and results moved.
        self.workers: dict[str, int] = {}
        self._unreachable: dict[str, float] = {}
        self.moving = 0.0
        self._counted = 0.0
        self.count_workers(0)
        self.dashboard: str | None = client.dashboard_link
        self.address = str(client.scheduler.address) if client.scheduler else "the scheduler"
        self.direct = self._workers_reachable()
        #: Whether workers are threads of this process: tasks then get the very values, and change
        #: them under each other's hands, unless each has a copy.
        self._in_process = self.address.startswith("inproc://")

    def map(
        self, function: Callable[..., Any], items: Sequence[Any], *common: Any
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (item, ``function(item, *common)``) as results come, in any order.

        Only a few tasks per slot are in flight, so the scheduler's memory does not grow with the
        number of items. A task whose worker dies is run again.
        """
        waiting = iter(items)
        pending: dict[Any, Any] = {}
        done: SimpleQueue[Any] = SimpleQueue()

        def submit_next() -> None:
            for item in waiting:
                future = self.submit(function, item, *common)
                pending[future] = item
                future.add_done_callback(done.put)
                return

        with self.failures():
            for _ in range(self.slots * _QUEUED):
                submit_next()
            while pending:
                try:
                    future = done.get(timeout=_RESTART_SECONDS)
                except Empty:  # long tasks, or nobody to run them
                    self.wait_for_workers()
                    continue
                item = pending.pop(future)
                with self.failures(task=f"chunk {item}"):
                    result = future.result()
                submit_next()
                yield item, result

    def check(self, paths: Sequence[str]) -> None:
        """Refuse workers that cannot read some paths."""
        with self.failures():
            check_workers(self.client, tuple(absolute(path) for path in paths))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the future of one task, which runs in one thread of some worker.

        Not of a chosen worker: Dask 2026.8 forgets tasks that may also run elsewhere but were meant
        for a worker that died last.
        """
        from distributed import Future

        if self._in_process:
            arguments = tuple(x if isinstance(x, Future) else copy.deepcopy(x) for x in arguments)
        return self.client.submit(in_one_thread, function, *arguments, pure=False)

    def ask(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        common: tuple[Any, ...],
        reminder: tuple[Any, ...],
    ) -> list[Any]:
        """Return ``function(*item, *common)`` for each item, the first of them on all `seats`.

        Unlike tasks, calls go to their workers directly where these can be reached: two messages
        where a task takes seven, which is what short steps wait for. Who is done takes the next
        item, with the `reminder` in place of `common`. A call that fails with its worker raises
        an OSError.
        """
        if self.direct:
            return list(self.client.sync(self._ask_all, function, items, common, reminder))
        shared = [self.place(argument, everywhere=True) for argument in common]
        return self.gather(
            [self.submit(function, *map(self.place, item), *shared) for item in items]
        )

    async def _ask_all(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        common: tuple[Any, ...],
        reminder: tuple[Any, ...],
    ) -> list[Any]:
        answers: list[Any] = [None] * len(items)
        waiting = iter(range(len(items)))
        shared = [self._in_file(argument) for argument in common]

        async def keep_busy(worker: str, index: int) -> None:
            said: Sequence[Any] = shared
            for chosen in itertools.chain((index,), waiting):
                item = [self._in_file(argument) for argument in items[chosen]]
                answers[chosen] = await self._call(worker, function, *item, *said)
                said = reminder

        # All that answer are waited for, so that none is still at work when a step is asked again.
        starts = list(zip(self.seats, waiting, strict=False))
        seats = (keep_busy(worker, index) for worker, index in starts)
        for outcome in await asyncio.gather(*seats, return_exceptions=True):
            if outcome is not None:
                raise outcome
        return answers

    async def _call(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a thread of one worker, past the scheduler.

        The RPC `run` of workers, its pickled arguments and its answer are not public; that is why
        pyproject.toml bounds distributed from above. Should they go, leave `direct` false: every
        step is then ordinary tasks, with the same bits, and only short steps take longer.
        """
        from distributed.core import clean_exception
        from distributed.protocol.pickle import dumps

        try:
            answer = await self.client.rpc(worker).run(
                function=dumps(in_worker), args=dumps((function, *arguments))
            )
        except OSError:
            self._unreachable[worker] = time.monotonic()
            raise
        if answer["status"] != "OK":
            _, error, traceback = clean_exception(**answer)
            assert error is not None
            raise error.with_traceback(traceback)
        return answer["result"]

    def place(self, value: Any, everywhere: bool = False) -> Any:
        """Return what a task takes as argument: a large array is put where workers find it.

        That is a file, or a worker, which then gets the task, or all of them.
        """
        found = self._in_file(value)
        if found is not value or not isinstance(value, np.ndarray) or value.nbytes < LARGE_ARGUMENT:
            return found
        with self._moving():
            return self.client.scatter(value, broadcast=everywhere, hash=False, direct=self.direct)

    def _in_file(self, value: Any) -> Any:
        """Return a file with a large array, for workers on this machine, or the value itself."""
        large = isinstance(value, np.ndarray) and value.nbytes >= _LARGE_HERE
        if self._exchange is None or not large:
            return value
        try:
            with self._moving():
                self._exchanged.append(ArrayFile.write(self._exchange, value))
        except OSError:  # no space there: take the network from now on
            self._exchange = None
            return value
        return self._exchanged[-1]

    def forget_placed(self) -> None:
        """Remove the files of values that no task needs any more."""
        while self._exchanged:
            self._exchanged.pop().path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        """Add the seconds of the body to those that data moved."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.moving += time.perf_counter() - began

    @property
    def slots(self) -> int:
        """Tasks that can run at a time."""
        return sum(self.workers.values())

    @property
    def seats(self) -> list[str]:
        """The worker of every slot, by turns, so that few calls are spread over many workers."""
        turns = range(max(self.workers.values()))
        return [name for turn in turns for name, count in self.workers.items() if turn < count]

    def count_workers(self, age: float = _COUNT_SECONDS) -> None:
        """Ask who is there, if the last answer is older than `age` seconds."""
        if time.monotonic() - self._counted < age:
            return
        self._counted = time.monotonic()
        lost = {
            name
            for name, moment in self._unreachable.items()
            if self._counted - moment < _AVOID_SECONDS
        }
        found = sorted(self.client.nthreads().items())
        self.workers = {name: count for name, count in found if name not in lost}

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """Return the results of futures, in their order."""
        from distributed import wait

        waiting = True
        while waiting:
            try:
                with self.client.as_current():
                    wait(futures, timeout=_RESTART_SECONDS)
                waiting = False
            except TimeoutError:  # long tasks, or nobody to run them
                self.wait_for_workers()
        with self._moving():
            return list(self.client.gather(futures, direct=self.direct))

    def _workers_reachable(self) -> bool:
        """Whether this process can talk to workers itself, past the scheduler."""
        try:
            self.client.scatter(0, direct=True, hash=False)
        except (OSError, TimeoutError):
            return False
        return True

    def wait_for_workers(self) -> None:
        """Wait until a worker is there, e.g. after the last one died and is being restarted."""
        deadline = time.monotonic() + _RESTART_SECONDS
        with self.failures():
            self.count_workers(0)
            while not self.workers:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"the last worker of {self.address} was lost and none came back in "
                        f"{_RESTART_SECONDS} s; start workers and continue with `resume`"
                    )
                time.sleep(_POLL_SECONDS)
                self.count_workers(0)

    @contextlib.contextmanager
    def failures(self, task: str = "a task", lost_workers: bool = True) -> Iterator[None]:
        """Turn what Dask raises about the cluster into one line that says what to do.

        With `lost_workers` false, what a lost worker may be the cause of passes through.
        """
        from distributed import CancelledError, KilledWorker
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError

        try:
            yield
        except KilledWorker as error:
            raise ClusterError(
                f"{task} killed its worker {error.allowed_failures + 1} times (out of memory?); "
                "give the workers more memory and continue with `resume`"
            ) from None
        except MemoryError:
            raise ClusterError(
                f"{task} ran out of memory on a worker; give the workers more memory or fewer "
                "threads and continue with `resume`"
            ) from None
        except (CancelledError, FutureCancelledError, CommClosedError, TimeoutError) as error:
            if not lost_workers and self.client.status == "running":
                raise
            raise ClusterError(
                f"lost the scheduler at {self.address} ({type(error).__name__}); finished work is "
                "kept, continue with `resume` once a scheduler runs"
            ) from None
