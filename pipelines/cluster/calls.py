"""Calls of workers: short work past the scheduler, over Dask's own connections between hosts.

A plugin adds an operation to the server of every worker, also of workers that join later. Each run
has a plugin of its own, which is removed at its end. Dask serialises arguments and results: arrays
go as they lie in memory. If many workers are called, what they have in common goes down a tree, in
which workers pass it on. Imports Dask.

    client --- worker 0 --- worker 1          at most FAN messages leave each of them
        |          '------- worker 2
        '----- worker 3 --- ...
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Worker, WorkerPlugin, connect
from distributed.protocol import to_serialize

from boxnn_numba.pipelines.cluster.tasks import FAN, in_one_thread

if TYPE_CHECKING:
    from distributed.comm import Comm

#: Workers, and the arguments of each call of them besides those that all have in common.
Work = Sequence[Sequence[Any]]
#: How often to ask the scheduler whether a worker that has not answered yet is still there.
LOOK_SECONDS = 10.0


class LostWorkerError(OSError):
    """A worker that cannot be reached, or not yet."""

    def __init__(self, worker: str, reason: str) -> None:
        super().__init__(f"{worker}: {reason}")
        self.worker, self._reason = worker, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return LostWorkerError, (self.worker, self._reason)


class AnswersCalls(WorkerPlugin):
    """Lets a worker answer calls, each in a thread of those that do its tasks."""

    def __init__(self, name: str) -> None:
        #: Name of the plugin, and of the operation.
        self.name = name

    def setup(self, worker: Worker) -> None:
        """Add the operation."""
        self._calls = calls = Calls(self.name, worker.connection_args, worker.scheduler)

        async def boxnn_call(
            function: Callable[..., Any], common: Sequence[Any], work: Work
        ) -> list[Any]:
            (_, own), *others = work
            run = asyncio.get_running_loop().run_in_executor
            here = [
                run(worker.executor, in_one_thread, function, *(*arguments, *common))
                for arguments in own
            ]
            further = asyncio.create_task(calls.call(function, common, others))
            found = await asyncio.gather(*here, return_exceptions=True)
            return [to_serialize(each) for each in (*found, *await further)]

        worker.handlers[self.name] = boxnn_call

    def teardown(self, worker: Worker) -> None:
        """Take it away again."""
        worker.handlers.pop(self.name, None)
        self._calls.close()


class Calls:
    """Connections to workers, kept open from call to call; `how` is what `connect` takes.

    A worker that hangs answers no more, but its connection stays. It counts as lost when the
    `scheduler` has given it up.
    """

    def __init__(self, name: str, how: dict[str, Any], scheduler: Any) -> None:
        self.name, self._how, self._scheduler = name, how, scheduler
        self._idle: defaultdict[str, list[Comm]] = defaultdict(list)

    async def call(
        self, function: Callable[..., Any], common: Sequence[Any], work: Work
    ) -> list[Any]:
        """Return ``function(*arguments, *common)`` of each call of each worker, in order.

        What a call raised is in its place, and a `LostWorkerError` where one was not reached.
        """
        ends = np.linspace(0, len(work), min(FAN, len(work)) + 1).astype(int).tolist()
        parts = [work[first:last] for first, last in itertools.pairwise(ends)]
        found = await asyncio.gather(*(self._pass_on(function, common, part) for part in parts))
        return list(itertools.chain.from_iterable(found))

    async def _pass_on(
        self, function: Callable[..., Any], common: Sequence[Any], work: Work
    ) -> list[Any]:
        """Give work to the first of its workers, which passes on what is for others."""
        worker = work[0][0]
        try:
            answer = await self._ask(worker, {
                "function": to_serialize(function),
                "common": [to_serialize(value) for value in common],
                # Lists all the way: Dask looks into no tuples.
                "work": [
                    [name, [[to_serialize(value) for value in call] for call in calls]]
                    for name, calls in work
                ],
            })  # fmt: skip
            if isinstance(answer, list | tuple):
                return list(answer)
            # Dask answers in a dict when a worker that closes has no threads any more, say.
            reason = (answer or {}).get("exception_text", "it does not answer calls yet")
            lost = LostWorkerError(worker, reason)
        except OSError as error:
            lost = LostWorkerError(worker, str(error))
        return [lost for _, calls in work for _ in calls]

    async def _ask(self, worker: str, message: dict[str, Any]) -> Any:
        idle = self._idle[worker]
        comm = idle.pop() if idle else await connect(worker, **self._how)
        try:
            await comm.write({"op": self.name, **message})
            answer = await self._answer(worker, comm)
        except BaseException:
            for each in (comm, *self._idle.pop(worker, ())):
                each.abort()
            raise
        self._idle[worker].append(comm)
        return answer

    async def _answer(self, worker: str, comm: Comm) -> Any:
        reading = asyncio.ensure_future(comm.read())
        try:
            while not (await asyncio.wait({reading}, timeout=LOOK_SECONDS))[0]:
                if not await self._scheduler.ncores(workers=[worker]):
                    raise OSError("the scheduler has given it up")
            return await reading
        finally:
            reading.cancel()

    def close(self) -> None:
        """Close all connections."""
        for comm in itertools.chain.from_iterable(self._idle.values()):
            comm.abort()
        self._idle.clear()
