"""Where chunks of work run: this process, or the workers of a Dask cluster.

Everything that scales is a function of a chunk whose results are combined; an
`Executor` maps it. The local one calls the function, the Dask one submits it.
Results are the same bits because all sums are of integers.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from boxnn_numba.backend import get_backend, limit_threads
from boxnn_numba.errors import ClusterError, InterruptedRunError
from boxnn_numba.locations import Location, absolute
from boxnn_numba.pipelines.cluster_connection import check_options, check_workers, open_client

if TYPE_CHECKING:
    from distributed import Client

#: Tasks that wait at each slot of a worker, so that none idles.
_QUEUED = 3
#: How long to wait for a worker to be restarted.
_RESTART_SECONDS = 60


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster to use; all None for this process.

    Attributes
    ----------
    workers, threads_per_worker
        Start this many local worker processes with this many threads each.
    scheduler, scheduler_file
        Address (``tcp://...`` or ``tls://...``), or file, of a running scheduler.
    tls_ca_file, tls_cert, tls_key
        Certificates; with them a plain connection is refused.
    performance_report
        HTML file for Dask's performance report.
    box_shards
        Split the boxes of a training run in this many parts, for boxes that do not fit a worker;
        0 gives every worker all boxes.
    """

    workers: int | None = None
    threads_per_worker: int | None = None
    scheduler: str | None = None
    scheduler_file: str | None = None
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    performance_report: str | None = None
    box_shards: int = 0

    @property
    def local(self) -> bool:
        """Whether everything runs in this process."""
        return self.workers is None and self.scheduler is None and self.scheduler_file is None


#: Everything in this process.
IN_PROCESS = ClusterOptions()


class LocalExecutor:
    """Runs chunks one after another in this process, each on all threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.slots = 1
        self.dashboard: str | None = None

    def check(self, paths: Sequence[str]) -> None:
        """Do nothing: this process sees what it sees."""

    def map(
        self, function: Callable[..., Any], items: Sequence[Any], *common: Any
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (item, ``function(item, *common)``) as results come."""
        with limit_threads(self.threads):
            for item in items:
                yield item, function(item, *common)


class DaskExecutor:
    """Runs chunks as tasks on a cluster, each in one thread of a worker."""

    def __init__(self, client: Client, box_shards: int = 0) -> None:
        self.client = client
        self.box_shards = box_shards
        self.slots = sum(client.nthreads().values())
        self.dashboard: str | None = client.dashboard_link
        self.address = str(client.scheduler.address) if client.scheduler else "the scheduler"
        self.direct = self._workers_reachable()

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
        """Return the future of one task, which runs in one thread of some worker."""
        return self.client.submit(in_one_thread, function, *arguments, pure=False)

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
        return list(self.client.gather(futures, direct=self.direct))

    def _workers_reachable(self) -> bool:
        """Whether this process can talk to workers itself, past the scheduler."""
        try:
            self.client.scatter(0, direct=True, hash=False)
        except (OSError, TimeoutError):
            return False
        return True

    def wait_for_workers(self) -> None:
        """Wait until a worker is there, e.g. after the last one died and is being restarted.

        Raises
        ------
        ClusterError
            None came back, or the scheduler is gone.
        """
        with self.failures():
            try:
                self.client.wait_for_workers(1, timeout=_RESTART_SECONDS)
            except TimeoutError:
                if self.client.status != "running":
                    raise
                raise ClusterError(
                    f"the last worker of {self.address} was lost and none came back in "
                    f"{_RESTART_SECONDS} s; start workers and continue with --resume"
                ) from None
            self.slots = sum(self.client.nthreads().values()) or self.slots

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
                "give the workers more memory and continue with --resume"
            ) from None
        except (CancelledError, FutureCancelledError, CommClosedError, TimeoutError) as error:
            if not lost_workers and self.client.status == "running":
                raise
            raise ClusterError(
                f"lost the scheduler at {self.address} ({type(error).__name__}); finished work is "
                "kept, continue with --resume once a scheduler runs"
            ) from None


Executor = LocalExecutor | DaskExecutor


@contextlib.contextmanager
def keep_on_interrupt(done: Callable[[], int], total: str, folder: Location) -> Iterator[None]:
    """Turn Ctrl-C into one line that says what was kept, and where."""
    try:
        yield
    except KeyboardInterrupt:
        if not any(folder.iterdir()):
            raise InterruptedRunError(
                f"interrupted before any of {total} was done; nothing is kept, start again"
            ) from None
        raise InterruptedRunError(
            f"interrupted; {done()} of {total} are kept in {folder}, continue with --resume"
        ) from None


def in_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with kernels limited to this thread: what every Dask task is."""
    with limit_threads(1):
        return function(*arguments)


@contextlib.contextmanager
def connect(
    options: ClusterOptions, threads: int | None = None, check: Sequence[str] = ()
) -> Iterator[Executor]:
    """Give the executor that the options ask for.

    Parameters
    ----------
    options
        Which cluster.
    threads
        Threads of the kernels in this process.
    check
        Paths that every worker must be able to read.

    Yields
    ------
    LocalExecutor or DaskExecutor

    Raises
    ------
    OptionError
        Options contradict each other.
    ClusterError
        The cluster cannot be reached, or a worker has another version or cannot read a path.
    """
    check_options(options)
    if options.local:
        yield LocalExecutor(get_backend("cpu", threads).threads)
        return
    with open_client(options) as client, _report(client, options.performance_report):
        check_workers(client, tuple(absolute(path) for path in check))
        yield DaskExecutor(client, options.box_shards)


@contextlib.contextmanager
def _report(client: Client, path: str | None) -> Iterator[None]:
    """Write Dask's report of what ran; a run that fails leaves none."""
    if path is None:
        yield
        return
    from distributed import performance_report

    if client.run_on_scheduler(importlib.util.find_spec, "bokeh") is None:
        raise ClusterError(
            "--performance-report needs the bokeh package where the scheduler runs; "
            "`pip install bokeh` there or leave the report out"
        )
    report = performance_report(path)
    with client.as_current():
        report.__enter__()
    yield
    with client.as_current():
        report.__exit__(None, None, None)
