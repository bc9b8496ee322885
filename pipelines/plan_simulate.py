"""Run a training step's schedule on in-process workers with injected latency and bandwidth.

Client, scheduler and workers are coroutines that exchange messages in the order in which the
cluster steppers do; work and transfers are replaced by waiting. It checks the closed forms of
`boxnn_numba.pipelines.plan`: queues at links, the random choice of a holder in
replication, uneven pieces and the overlap of rounds come about by themselves here.

The wait is real, on a faster or slower clock, or the clock jumps to the next event, which gives
the same schedule whatever else the machine is doing.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any

from boxnn_numba.pipelines import plan
from boxnn_numba.pipelines.plan_inputs import Constants, Hardware, Job


class _JumpingSelector(selectors.DefaultSelector):
    """Waits by adding to `now`."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Skip the time until the next event."""
        self.now += max(0.0, timeout or 0.0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next event instead of passing."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the simulated time."""
        return self._jumping.now


class Simulation:
    """A cluster of coroutines; every host has one link, each way.

    Parameters
    ----------
    job, hardware, constants
        As for `plan.step_phases`.
    scale
        Seconds of the event loop per simulated second.
    seed
        Seed of which holder a worker gets the boxes from.
    """

    def __init__(
        self, job: Job, hardware: Hardware, constants: Constants, scale: float, seed: int
    ) -> None:
        self.job, self.hardware, self.constants = job, hardware, constants
        self._scale = scale
        self._bandwidth = min(hardware.bandwidth, constants.serialise_rate)
        #: When each direction of a link, and the scheduler's processor, is free again.
        self._free: dict[Any, float] = {}
        self._random = random.Random(seed)
        self._slots = [asyncio.Semaphore(hardware.threads) for _ in range(hardware.workers)]

    async def step(self) -> float:
        """Run one step and return its simulated seconds."""
        began = self._now()
        await self._work(2 * self.job.rows * self.job.features / self.constants.copy_rate)
        if self.hardware.box_shards:
            await self._sharded()
        else:
            await self._replicated()
        await self._work(plan.gradient_seconds(self.job, self.constants, self.hardware.client))
        return self._now() - began

    # --- what takes time ------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time() / self._scale

    async def _work(self, seconds: float) -> None:
        await self._until(self._now() + seconds)

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self._now()) * self._scale)

    def _reserve(self, what: Any, seconds: float) -> float:
        """Take something that serves one after the other; return when it is done."""
        done = max(self._now(), self._free.get(what, 0.0)) + seconds
        self._free[what] = done
        return done

    async def _send(self, source: Any, target: Any, size: float, hops: float = 0) -> None:
        """Move bytes, over the links of both hosts, and wait until they have arrived."""
        seconds = size / self._bandwidth
        sent = self._reserve(("out", source), seconds)
        arrived = max(sent, self._reserve(("in", target), seconds))
        await self._until(arrived + hops * self.hardware.latency)

    def _forward(self, rows: int, boxes: int) -> float:
        seconds = plan.forward_seconds(self.job, self.constants, rows, boxes)
        return self.constants.worker_factor * seconds

    # --- schedules ------------------------------------------------------------------------

    async def _replicated(self) -> None:
        job, workers = self.job, self.hardware.workers
        await self._work(plan.STEP_HOPS * self.hardware.latency)
        side = job.code_bytes / 2
        # Two keys, to two workers; then each spreads by itself, a round at a time.
        first = [0, 1 % workers]
        await asyncio.gather(*(self._send("client", worker, side) for worker in first))
        holders = [{worker} for worker in first]
        while any(len(held) < workers for held in holders):
            moves = []
            for held in holders:
                missing = sorted(set(range(workers)) - held)
                receivers = self._random.sample(missing, min(len(missing), 2 * len(held)))
                known = sorted(held)
                moves += [(self._random.choice(known), worker) for worker in receivers]
                held.update(receivers)
            await asyncio.gather(
                *(self._send(source, to, side, plan.REPLICATE_HOPS) for source, to in moves)
            )
        tasks = min(self.hardware.slots, job.rows)
        pieces = _split(job.rows, tasks)

        def see(index: int) -> float:
            laid_out = job.code_bytes / self.constants.copy_rate
            return laid_out + self._forward(pieces[index], job.boxes)

        (arguments,) = plan.task_arguments(job, self.hardware)
        results = plan.results_bytes(job, self.hardware, self.constants)
        await self._tasks(tasks, see, arguments, results)

    async def _sharded(self) -> None:
        job, hardware = self.job, self.hardware
        await self._work((plan.STEP_HOPS + 2 * plan.ROUND_HOPS) * hardware.latency)
        boxes = _split(job.boxes, min(hardware.box_shards, job.boxes))

        def see(index: int) -> float:
            laid_out = 2 * boxes[index] * job.features / self.constants.copy_rate
            return laid_out + self._forward(job.rows, boxes[index])

        results = plan.results_bytes(job, hardware, self.constants) / 3
        first, *others = plan.task_arguments(job, hardware)
        await self._tasks(len(boxes), see, first + job.code_bytes, results)
        for size in others:
            await self._tasks(len(boxes), lambda index: 0.0, size, results)

    async def _tasks(
        self, tasks: int, work: Callable[[int], float], arguments: float, results: float
    ) -> None:
        """Send tasks through the scheduler, run them on the slots, gather the results."""
        await self._work(self.constants.round_trip - self.constants.task_seconds)
        await self._send("client", "scheduler", arguments)

        async def task(index: int) -> None:
            worker = index % self.hardware.workers
            await self._until(self._reserve("scheduler", self.constants.task_seconds))
            await self._send("scheduler", worker, arguments / tasks)
            async with self._slots[worker]:
                await self._work(work(index))
            await self._send(worker, "client", results / tasks)

        await asyncio.gather(*(task(index) for index in range(tasks)))


def _split(total: int, parts: int) -> list[int]:
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def simulate(
    job: Job,
    hardware: Hardware,
    constants: Constants,
    steps: int = 3,
    real_seconds: float = 0.0,
) -> float:
    """Return the mean simulated seconds of a step.

    Parameters
    ----------
    job, hardware, constants
        As for `plan.step_phases`.
    steps
        Steps to run.
    real_seconds
        About how long each step is to take in real time; 0 jumps from event to event. On a busy
        machine coroutines wake up late, which matters less in longer steps.
    """
    expected = sum(plan.step_phases(job, hardware, constants).values())
    scale = real_seconds / expected if real_seconds else 1.0
    loop = asyncio.SelectorEventLoop if real_seconds else JumpingLoop
    with asyncio.Runner(loop_factory=loop) as runner:

        async def run() -> list[float]:
            return [
                await Simulation(job, hardware, constants, scale, seed).step()
                for seed in range(steps)
            ]

        return sum(runner.run(run())) / steps
