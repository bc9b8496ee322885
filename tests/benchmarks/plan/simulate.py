"""Run a training step's schedule on in-process workers with injected latency and bandwidth.

Client, scheduler and workers are coroutines that exchange messages in the order in which the
cluster trainers do; work and transfers are replaced by waiting. It checks the closed forms of
`boxnn_numba.pipelines.plan.step`: queues at links and at the client's processor, the random choice
of a holder in replication, uneven pieces and the overlap of rounds come about by themselves here.

The wait is real, on a faster or slower clock, or the clock jumps to the next event, which gives
the same schedule whatever else the machine is doing.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from collections.abc import Callable
from typing import Any

from boxnn_numba.pipelines.plan import step as plan_step
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job


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
        As for `plan_step.step_phases`.
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
        #: When each direction of a link, and a processor, is free again.
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
            await self._called()
        await self._work(plan_step.gradient_seconds(self.job, self.constants, self.hardware.client))
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

    async def _send(
        self, source: Any, target: Any, size: float, hops: float = 0, rate: float = 0
    ) -> None:
        """Move bytes, over the links of both hosts, and wait until they have arrived."""
        seconds = size / (rate or self._bandwidth)
        sent = self._reserve(("out", source), seconds)
        arrived = max(sent, self._reserve(("in", target), seconds))
        await self._until(arrived + hops * self.hardware.latency)

    def _forward(self, rows: int, boxes: int) -> float:
        seconds = plan_step.forward_seconds(self.job, self.constants, rows, boxes)
        return self.constants.worker_factor * seconds

    # --- schedules ------------------------------------------------------------------------

    async def _called(self) -> None:
        job, constants = self.job, self.constants
        sides = min(2, self.hardware.client)
        await self._work(job.code_bytes * constants.compare_seconds / sides)
        seats, count = plan_step.calls(job, self.hardware, constants)
        rows = _split(job.rows, count)
        update, _, answer = plan_step.call_bytes(job, self.hardware, constants)
        waiting = iter(range(count))
        changed = [
            plan_step.changed_codes(job, constants) * constants.apply_seconds
        ] * self.hardware.workers

        async def keep_busy(seat: int, piece: int) -> None:
            worker, size = seat % self.hardware.workers, update
            for chosen in itertools.chain((piece,), waiting):
                sent = size + rows[chosen] * (job.features + 4) + plan_step.MESSAGE_BYTES
                await self._call(worker, sent)
                size = 0.0
                async with self._slots[worker]:
                    laid_out = rows[chosen] * job.features / constants.copy_rate
                    # Only the first call of a worker changes its boxes; others come while it does.
                    apply, changed[worker] = changed[worker], 0.0
                    await self._work(laid_out + apply + self._forward(rows[chosen], job.boxes))
                await self._send(worker, "client", answer, plan_step.CALL_HOPS / 2)

        starts = list(zip(range(seats), waiting, strict=False))
        await asyncio.gather(*(keep_busy(seat, piece) for seat, piece in starts))

    async def _call(self, worker: int, size: float) -> None:
        """Pack a message on the client's processor, send it, and unpack it."""
        constants, bandwidth = self.constants, self.hardware.bandwidth
        packing = constants.message_seconds + size / constants.pack_rate
        await self._until(self._reserve("processor", packing))
        await self._send("client", worker, size, hops=plan_step.CALL_HOPS / 2, rate=bandwidth)
        whole = constants.call_seconds + size / constants.call_rate
        await self._work(max(0.0, whole - packing))

    async def _sharded(self) -> None:
        job, hardware = self.job, self.hardware
        seconds, hops = plan_step.placing(job, hardware, self.constants)
        hops += plan_step.ROUNDS * plan_step.TASK_HOPS
        await self._work(seconds + hops * hardware.latency)
        boxes = _split(job.boxes, min(hardware.box_shards, job.boxes))
        batch, parts = plan_step.placed_bytes(job, hardware)
        if batch:
            await self._spread(batch)
        for index, count in enumerate(boxes):
            await self._send("client", index % hardware.workers, parts * count / job.boxes)

        def see(index: int) -> float:
            laid_out = (2 * boxes[index] + job.rows) * job.features / self.constants.copy_rate
            return laid_out + self._forward(job.rows, boxes[index])

        results = plan_step.shard_results(job, hardware, self.constants) / plan_step.ROUNDS
        first, *others = plan_step.task_arguments(job, hardware)
        await self._tasks(len(boxes), see, first, results)
        for size in others:
            await self._tasks(len(boxes), None, size, results)

    async def _spread(self, size: float) -> None:
        """Send a value to one worker, and from there to all, a round at a time."""
        workers = self.hardware.workers
        await self._send("client", 0, size)
        held = {0}
        while len(held) < workers:
            missing = sorted(set(range(workers)) - held)
            receivers = self._random.sample(missing, min(len(missing), 2 * len(held)))
            known = sorted(held)
            moves = [(self._random.choice(known), worker) for worker in receivers]
            held.update(receivers)
            await asyncio.gather(*(self._send(source, to, size) for source, to in moves))

    async def _tasks(
        self,
        tasks: int,
        work: Callable[[int], float] | None,
        arguments: float,
        results: float,
    ) -> None:
        """Send tasks through the scheduler, run them on the slots, gather the results."""
        twice = tasks * (work is not None)  # the first round has two tasks for a shard
        await self._work(self.constants.round_trip + (twice - 1) * self.constants.task_seconds)
        await self._work(arguments / self.constants.argument_rate)
        await self._send("client", "scheduler", arguments, rate=self.hardware.bandwidth)

        async def task(index: int) -> None:
            worker = index % self.hardware.workers
            await self._until(self._reserve("scheduler", self.constants.task_seconds))
            sent = arguments / tasks
            await self._send("scheduler", worker, sent, rate=self.hardware.bandwidth)
            async with self._slots[worker]:
                await self._work(work(index) if work else 0.0)
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
        As for `plan_step.step_phases`.
    steps
        Steps to run.
    real_seconds
        About how long each step is to take in real time; 0 jumps from event to event. On a busy
        machine coroutines wake up late, which matters less in longer steps.
    """
    expected = sum(plan_step.step_phases(job, hardware, constants).values())
    scale = real_seconds / expected if real_seconds else 1.0
    loop = asyncio.SelectorEventLoop if real_seconds else JumpingLoop
    with asyncio.Runner(loop_factory=loop) as runner:

        async def run() -> list[float]:
            return [
                await Simulation(job, hardware, constants, scale, seed).step()
                for seed in range(steps)
            ]

        return sum(runner.run(run())) / steps
