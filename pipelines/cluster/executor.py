"""Executors of chunks of work: this process, or the workers of a Dask cluster.

Everything that scales is a function of a chunk whose results are combined; an
`Executor` maps it. The local one calls its stages, the Dask one submits it whole.
Results are the same bits because all sums are of integers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.data.atomic import is_untouched
from boxnn_numba.data.paths import Location, absolute
from boxnn_numba.errors import ClusterError, InterruptedRunError
from boxnn_numba.pipelines.cluster.connection import check_workers, open_client
from boxnn_numba.pipelines.cluster.dask_executor import DaskExecutor
from boxnn_numba.pipelines.cluster.gpus import give_gpus
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions

if TYPE_CHECKING:
    from distributed import Client

#: Chunks that take longer are reported as soon as they are written.
_LONG_SECONDS = 0.5


class LocalExecutor:
    """Runs chunks one after another in this process, each on all threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.slots = 1
        self.dashboard: str | None = None

    def check(self, paths: Sequence[str]) -> None:
        """Do nothing: this process finds out when it reads."""

    def map_stages(
        self,
        items: Sequence[Any],
        read: Callable[[Any], Any],
        compute: Callable[[Any], Any],
        write: Callable[[Any], Any],
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (item, ``write(compute(read(item)))``) in order.

        While one is computed, in this thread, the next is read and the one before is written.
        """
        late: tuple[Any, Future[Any]] | None = None
        with limit_threads(self.threads), ThreadPoolExecutor(1, "boxnn-chunks") as beside:
            ahead = [beside.submit(read, item) for item in items[:1]]
            for number, item in enumerate(items, start=1):
                this = ahead.pop().result()
                ahead = [beside.submit(read, other) for other in items[number : number + 1]]
                began = time.perf_counter()
                try:
                    this = compute(this)
                finally:  # the caller is told what was written, whatever happens here
                    if late is not None:
                        yield late[0], late[1].result()
                late = item, beside.submit(write, this)
                # After a long computation progress is reported at once, also if that waits for
                # writing.
                if time.perf_counter() - began > _LONG_SECONDS or number == len(items):
                    yield item, late[1].result()
                    late = None


Executor = LocalExecutor | DaskExecutor


@contextlib.contextmanager
def keep_on_interrupt(done: Callable[[], int], total: str, folder: Location) -> Iterator[None]:
    """Turn Ctrl-C into one line that says what was kept, and where."""
    try:
        yield
    except KeyboardInterrupt:
        if is_untouched(folder):
            raise InterruptedRunError(
                f"interrupted before any of {total} was done; nothing is kept, start again"
            ) from None
        raise InterruptedRunError(
            f"interrupted; {done()} of {total} are kept in {folder}, continue with `resume`"
        ) from None


@contextlib.contextmanager
def connect(
    options: ClusterOptions | None,
    threads: int | None = None,
    check: Sequence[str] = (),
    device: str = "cpu",
    client: Client | None = None,
) -> Iterator[Executor]:
    """Give the executor that is asked for: this process with some threads, or a cluster.

    The cluster is that of the `client`, which is left open, or the one that the options name.
    Every worker must be able to read the paths to `check`, and gets a GPU of its own with the
    `device` ``"cuda"``.

    Raises
    ------
    ClusterError
        The cluster cannot be reached, or a worker has another version, cannot read a path or has
        no GPU.
    """
    options = options or IN_PROCESS
    if client is None and options.local:
        yield LocalExecutor(get_backend("cpu", threads).threads)
        return
    on_this_machine = client is None and options.workers is not None
    with contextlib.ExitStack() as stack:
        if client is None:
            client = stack.enter_context(open_client(options))
        stack.enter_context(_report(client, options.performance_report))
        check_workers(client, tuple(absolute(path) for path in check))
        if device == "cuda":
            give_gpus(client, options.share_gpus)
        executor = DaskExecutor(client, options.box_shards, on_this_machine)
        stack.callback(executor.close)
        yield executor


@contextlib.contextmanager
def _report(client: Client, path: str | None) -> Iterator[None]:
    """Write Dask's report of what ran; a run that fails leaves none."""
    if path is None:
        yield
        return
    from distributed import performance_report

    if client.run_on_scheduler(importlib.util.find_spec, "bokeh") is None:
        raise ClusterError(
            "`performance_report` needs the bokeh package where the scheduler runs; "
            "`pip install bokeh` there or leave the report out"
        )
    report = performance_report(path)
    with client.as_current():
        report.__enter__()
    yield
    with client.as_current():
        report.__exit__(None, None, None)
