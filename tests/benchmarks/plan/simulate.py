"""Run a training step's schedule on in-process workers with injected latency and bandwidth.

Client, scheduler and workers are coroutines that exchange messages in the order in which the
cluster trainers do; work and transfers are replaced by waiting. It checks the closed forms of
`boxnn_numba.pipelines.plan.step`: queues at links and at the client's processor, uneven pieces and
the overlap of calls come about by themselves here.

The wait is real, on a faster or slower clock, or the clock jumps to the next event, which gives
the same schedule whatever else the machine is doing.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Sequence
from typing import Any

from boxnn_numba.pipelines.cluster.tasks import FAN
from boxnn_numba.pipelines.plan import step as plan_step
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job

#: What a call sends, how long it works, and what it answers; and the calls of a worker.
_Call = tuple[float, float, float]
_Calls = tuple[int, Sequence[_Call]]


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
    """

    def __init__(self, job: Job, hardware: Hardware, constants: Constants, scale: float) -> None:
        self.job, self.hardware, self.constants = job, hardware, constants
        self._scale = scale
        #: When each direction of a link, and a processor, is free again.
        self._free: dict[Any, float] = {}
        self._slots = [asyncio.Semaphore(hardware.threads) for _ in range(hardware.workers)]

    async def step(self) -> float:
        """Run one step and return its simulated seconds."""
        began = self._now()
        await self._work(2 * self.job.rows * self.job.features / self.constants.copy_rate)
        moved = plan_step.touched_cells(self.job, self.constants) * self.job.code_bytes
        cells = self.job.boxes * self.job.parts
        compared = moved / cells * self.constants.compare_seconds
        await self._work(compared / self.hardware.client)
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

    async def _send(self, source: Any, target: Any, size: float, rate: float = 0) -> None:
        """Move bytes, over the links of both hosts, and wait until they have arrived."""
        seconds = size / (rate or self.hardware.bandwidth)
        sent = self._reserve(("out", source), seconds)
        arrived = max(sent, self._reserve(("in", target), seconds))
        await self._until(arrived + plan_step.CALL_HOPS / 2 * self.hardware.latency)

    def _forward(self, rows: int, boxes: int) -> float:
        seconds = plan_step.forward_seconds(self.job, self.constants, rows, boxes)
        return self.constants.worker_factor * seconds

    # --- schedules ------------------------------------------------------------------------

    async def _called(self) -> None:
        job, constants, workers = self.job, self.constants, self.hardware.workers
        seats, count = plan_step.calls(job, self.hardware, constants)
        rows = _split(job.rows, count)
        ((update, own, answer),) = plan_step.call_bytes(job, self.hardware, constants)
        own -= job.rows / count * (job.features + 4)
        changed = [plan_step.changed_codes(job, constants) * constants.apply_seconds] * workers

        def call(worker: int, chosen: int) -> _Call:
            # Only the first call of a worker changes its boxes; others come while it does.
            apply, changed[worker] = changed[worker], 0.0
            laid_out = rows[chosen] * job.features / constants.copy_rate
            work = laid_out + apply + self._forward(rows[chosen], job.boxes)
            return own + rows[chosen] * (job.features + 4), work, answer

        if count == seats:
            calls = [
                (worker, [call(worker, seat) for seat in range(worker, seats, workers)])
                for worker in range(min(seats, workers))
            ]
            await self._tree("client", update, calls)
            return
        waiting = iter(range(count))

        async def keep_busy(seat: int, piece: int) -> None:
            worker, size = seat % workers, update
            for chosen in itertools.chain((piece,), waiting):
                await self._pass_on("client", size, [(worker, [call(worker, chosen)])])
                size = 0.0

        starts = list(zip(range(seats), waiting, strict=False))
        await asyncio.gather(*(keep_busy(seat, piece) for seat, piece in starts))

    async def _sharded(self) -> None:
        job, workers, constants = self.job, self.hardware.workers, self.constants
        _, count = plan_step.calls(job, self.hardware, constants)
        boxes = _split(job.boxes, count)
        changed = plan_step.changed_codes(job, constants) * constants.apply_seconds / count
        laid_out = job.rows * job.features / constants.copy_rate + changed
        sizes = plan_step.call_bytes(job, self.hardware, constants)
        for number, (common, own, answer) in enumerate(sizes):
            work = [0.0 if number else laid_out + self._forward(job.rows, some) for some in boxes]
            calls = [
                (w, [(own, work[shard], answer) for shard in range(w, count, workers)])
                for w in range(min(count, workers))
            ]
            await self._tree("client", common, calls)

    async def _tree(self, host: Any, common: float, calls: Sequence[_Calls]) -> None:
        """Give calls to some workers, which pass on what is for others."""
        ends = [0, *itertools.accumulate(_split(len(calls), min(FAN, len(calls)) or 1))]
        parts = [calls[a:b] for a, b in itertools.pairwise(ends) if b > a]
        await asyncio.gather(*(self._pass_on(host, common, part) for part in parts))

    async def _pass_on(self, host: Any, common: float, calls: Sequence[_Calls]) -> None:
        """Serialise a message on a host's processor, send it, have the work done, and answer."""
        constants, ((worker, own), *others) = self.constants, calls
        size = common + sum(sent for _, some in calls for sent, _, _ in some)
        processor = constants.message_seconds + size / constants.send_rate
        await self._until(self._reserve(("processor", host), processor))
        await self._send(host, worker, size)
        whole = constants.call_seconds + size / constants.call_rate
        await self._work(max(0.0, whole - processor))

        async def do(seconds: float) -> None:
            async with self._slots[worker]:
                await self._work(seconds)

        here = [do(seconds) for _, seconds, _ in own]
        await asyncio.gather(*here, self._tree(worker, common, others))
        answer = sum(returned for _, some in calls for _, _, returned in some)
        back = min(self.hardware.bandwidth, constants.answer_rate)
        await self._send(worker, host, answer, back)
        self._reserve(("processor", host), answer / constants.answer_rate)


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
            return [await Simulation(job, hardware, constants, scale).step() for _ in range(steps)]

        return sum(runner.run(run())) / steps
