"""The executor that works on a Dask cluster: tasks through its scheduler, short calls past it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from boxnn_numba.data.paths import absolute
from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines.cluster.connection import check_workers
from boxnn_numba.pipelines.cluster.shared_arrays import SharedRoom
from boxnn_numba.pipelines.cluster.tasks import in_one_thread, in_worker

if TYPE_CHECKING:
    from distributed import Client

    from boxnn_numba.pipelines.cluster.calls import Calls, Work

#: Tasks that wait at each slot of a worker, so that none idles.
_QUEUED = 3
#: How long to wait for a worker to be restarted.
_RESTART_SECONDS = 60
#: How long to wait for workers to forget a run.
_CLOSE_SECONDS = 5
_POLL_SECONDS = 0.1
#: How often to tell all workers what is new, while some are lost.
_ATTEMPTS = 10
#: How often to look for workers that joined, and how long to do without one that was lost.
_COUNT_SECONDS, _AVOID_SECONDS = 5.0, 5.0
#: Calls at a time by way of the scheduler.
_MOST_AT_ONCE = 64


class DaskExecutor:
    """Runs chunks as tasks on a cluster, each in one thread of a worker."""

    def __init__(self, client: Client, box_shards: int = 0, on_this_machine: bool = False) -> None:
        self.client = client
        self.box_shards = box_shards
        #: Threads of each worker.
        self.workers: dict[str, int] = {}
        self._unreachable: dict[str, float] = {}
        self._counted = 0.0
        self.count_workers(0)
        self.dashboard: str | None = client.dashboard_link
        self.address = str(client.scheduler.address) if client.scheduler else "the scheduler"
        #: Whether workers are threads of this process. Tasks then get the caller's own values, and
        #: each needs a copy: else one would change the values of another.
        self._in_process = self.address.startswith("inproc://")
        self._calls = self._calls_of_workers()
        self._room = SharedRoom.for_workers(client) if on_this_machine else None
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, "boxnn-calls")

    def _calls_of_workers(self) -> Calls | None:
        """Return calls of workers; None if this process cannot reach them itself."""
        from boxnn_numba.pipelines.cluster.calls import AnswersCalls, Calls

        try:
            self.client.scatter(0, direct=True, hash=False)
        except (OSError, TimeoutError):
            return None
        name, how = f"boxnn-{uuid4().hex}", self.client.security.get_connection_args("client")
        for attempt in range(_ATTEMPTS):
            try:
                self.client.register_plugin(AnswersCalls(name))
                break
            except OSError:  # a worker was lost meanwhile
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(_POLL_SECONDS)
        return Calls(name, how, self.client.scheduler)

    @property
    def direct(self) -> bool:
        """Whether calls go to workers past the scheduler."""
        return self._calls is not None

    def map(
        self, function: Callable[..., Any], items: Sequence[Any], *common: Any
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (item, ``function(item, *common)``) as results come, in any order.

        Only a few tasks per slot are in flight, so the scheduler's memory does not grow with the
        number of items; workers that join get as many. A task whose worker dies is run again.
        """
        waiting = iter(items)
        pending: dict[Any, Any] = {}
        done: SimpleQueue[Any] = SimpleQueue()

        def submit_more() -> None:
            self.count_workers()
            most = max(1, self.slots) * _QUEUED  # who is away may come back
            for item in itertools.islice(waiting, max(0, most - len(pending))):
                future = self.submit(function, item, *common)
                pending[future] = item
                future.add_done_callback(done.put)

        with self.failures():
            submit_more()
            while pending:
                try:
                    future = done.get(timeout=_RESTART_SECONDS)
                except Empty:  # long tasks, or nobody to run them
                    self.wait_for_workers()
                    continue
                item = pending.pop(future)
                # Of a worker that died, Dask blames the task that ran and those that waited.
                suspects = {item, *(pending[other] for other in pending if other.status == "error")}
                with self.failures(task="chunk " + " or ".join(map(str, sorted(suspects)))):
                    result = self._result(future)
                submit_more()
                yield item, result

    def _result(self, future: Any) -> Any:
        """Return the result of a task that is done.

        If it was lost with its worker since, it is computed again, which needs another worker.
        """
        while True:
            try:
                return future.result(timeout=_RESTART_SECONDS)
            except TimeoutError:
                if future.status == "pending":
                    self.wait_for_workers()
                elif future.status != "finished":  # it may have finished just now
                    return future.result()

    def check(self, paths: Sequence[str]) -> None:
        """Refuse workers that cannot read some paths."""
        with self.failures():
            check_workers(self.client, tuple(absolute(path) for path in paths))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the future of one task, which runs in one thread of some worker.

        The worker is never chosen: Dask 2026.8 forgets a task that names workers and may also run
        elsewhere, if all workers that it names have died.
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
        everything: Callable[[], tuple[Any, ...]],
    ) -> list[Any]:
        """Return ``function(*item, *common)`` for each item, the first of them on all `seats`.

        If there are more items than seats, a free seat takes the next item, with the `reminder` in
        place of `common`. A call that answers None is repeated with `everything`. Otherwise it is
        as `call_each`.
        """
        seats = self.seats
        items, common = self._shared(items, common)
        if len(items) <= len(seats):
            calls = list(zip(seats, items, strict=False))
            answers = self._call_each(function, calls, common)
            lacking = [index for index, answer in enumerate(answers) if answer is None]
            if lacking:
                again = [calls[index] for index in lacking]
                found = self._call_each(function, again, everything())
                for index, answer in zip(lacking, found, strict=True):
                    answers[index] = answer
            return answers
        waiting, answers = iter(range(len(items))), [None] * len(items)

        async def keep_busy(worker: str, index: int) -> list[Any]:
            said = common
            for chosen in itertools.chain((index,), waiting):
                work = [(worker, [items[chosen]])]
                found = await self._call(function, said, work)
                if found == [None]:
                    found = await self._call(function, everything(), work)
                if isinstance(found[0], BaseException):
                    return found
                answers[chosen], said = found[0], reminder
            return []

        starts = zip(seats, waiting, strict=False)
        self._together([keep_busy(worker, index) for worker, index in starts])
        return answers

    def call_each(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[str, tuple[Any, ...]]],
        common: tuple[Any, ...] = (),
    ) -> list[Any]:
        """Return ``function(*arguments, *common)`` of each (worker, arguments), side by side.

        Unlike tasks, calls go directly to workers that can be reached. A call takes two messages
        and a task seven, and messages are what short steps wait for. A call that fails with its
        worker raises an OSError.
        """
        workers = [worker for worker, _ in calls]
        arguments, common = self._shared([given for _, given in calls], common)
        return self._call_each(function, [*zip(workers, arguments, strict=True)], common)

    def _shared(
        self, items: Sequence[tuple[Any, ...]], common: tuple[Any, ...]
    ) -> tuple[Sequence[tuple[Any, ...]], tuple[Any, ...]]:
        """Return arguments of a round of calls as they go to workers."""
        if self._room is None:
            return items, common
        *items, common = self._room.round([*items, common])
        return items, common

    def _call_each(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[str, tuple[Any, ...]]],
        common: tuple[Any, ...],
    ) -> list[Any]:
        of_worker: dict[str, list[int]] = {}
        for index, (worker, _) in enumerate(calls):
            of_worker.setdefault(worker, []).append(index)
        work = [(name, [calls[i][1] for i in own]) for name, own in of_worker.items()]
        found = self._together([self._call(function, common, work)])
        order = itertools.chain.from_iterable(of_worker.values())
        answers = dict(zip(order, found, strict=True))
        return [answers[index] for index in range(len(calls))]

    def _together(self, calls: Sequence[Coroutine[Any, Any, list[Any]]]) -> list[Any]:
        """Return the results of some calls, or raise the error of one of them."""

        # Wait for all of them, so that none is still at work when a step is repeated.
        async def gather() -> list[list[Any]]:
            return list(await asyncio.gather(*calls))

        found = list(itertools.chain.from_iterable(self.client.sync(gather)))
        errors = [each for each in found if isinstance(each, BaseException)]
        for error in errors:
            worker = getattr(error, "worker", None)
            if worker is not None:
                self._unreachable[worker] = time.monotonic()
        if errors:
            raise errors[0]
        return found

    async def _call(
        self, function: Callable[..., Any], common: Sequence[Any], work: Work
    ) -> list[Any]:
        """Return what calls of workers find, or raise; the slow way where none can be reached."""
        if self._calls is not None:
            return await self._calls.call(function, common, work)
        run = asyncio.get_running_loop().run_in_executor
        found = [
            run(self._threads, self._by_scheduler, worker, function, (*arguments, *common))
            for worker, calls in work
            for arguments in calls
        ]
        return await asyncio.gather(*found, return_exceptions=True)

    def _by_scheduler(self, worker: str, function: Callable[..., Any], arguments: Any) -> Any:
        from boxnn_numba.pipelines.cluster.calls import LostWorkerError

        try:
            return self.client.run(in_worker, function, *arguments, workers=[worker])[worker]
        except OSError as error:
            raise LostWorkerError(worker, str(error)) from error

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

    def close(self) -> None:
        """Close the connections to workers, which answer no more calls."""
        if self._calls is not None and self.client.loop is not None:
            self.client.loop.add_callback(self._calls.close)
            # A plugin that stays would keep workers without this package from joining later.
            forget = self.client.scheduler.unregister_worker_plugin
            with contextlib.suppress(OSError, TimeoutError, RuntimeError, ValueError):
                if self.client.status == "running":
                    self.client.sync(forget, name=self._calls.name, callback_timeout=_CLOSE_SECONDS)
        self._threads.shutdown(wait=False)
        if self._room is not None:
            self._room.close()

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
        """Turn Dask's errors about the cluster into a ClusterError that says what to do.

        With `lost_workers` false, errors that a lost worker can cause are not translated.
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
