"""Where chunks of work run: this process, or the workers of a Dask cluster.

Everything that scales is a function of a chunk whose results are combined; an
`Executor` maps it. The local one calls the function, the Dask one submits it.
Results are the same bits because all sums are of integers.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxnn_numba import __version__, validation
from boxnn_numba.backend import default_threads, get_backend, limit_threads
from boxnn_numba.errors import ClusterError, InterruptedRunError, OptionError

if TYPE_CHECKING:
    from distributed import Client, Security

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
        from distributed import as_completed

        waiting = iter(items)
        pending: dict[Any, Any] = {}
        with self.failures():
            done = as_completed(loop=self.client.loop)

            def submit_next() -> None:
                for item in waiting:
                    future = self.submit(function, item, *common)
                    pending[future] = item
                    done.add(future)
                    return

            for _ in range(self.slots * _QUEUED):
                submit_next()
            for future in done:
                item = pending.pop(future)
                result = future.result()
                submit_next()
                yield item, result

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the future of one task, which runs in one thread of some worker."""
        return self.client.submit(in_one_thread, function, *arguments, pure=False)

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """Return the results of futures, in their order."""
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
            self.client.wait_for_workers(1, timeout=_RESTART_SECONDS)
            self.slots = sum(self.client.nthreads().values())

    @contextlib.contextmanager
    def failures(self, lost_workers: bool = True) -> Iterator[None]:
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
                f"a task killed its worker {error.allowed_failures + 1} times (out of memory?); "
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
def keep_on_interrupt(done: Callable[[], int], total: str, folder: Path) -> Iterator[None]:
    """Turn Ctrl-C into one line that says what was kept, and where."""
    try:
        yield
    except KeyboardInterrupt:
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
    _check_options(options)
    if options.local:
        yield LocalExecutor(get_backend("cpu", threads).threads)
        return
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client(options))
        executor = DaskExecutor(client, options.box_shards)
        _check_workers(executor, tuple(os.path.abspath(path) for path in check))  # noqa: PTH100
        if options.performance_report is not None:
            from distributed import performance_report

            stack.enter_context(performance_report(options.performance_report))
        yield executor


def _check_options(options: ClusterOptions) -> None:
    if options.workers is not None:
        validation.positive("--workers", options.workers)
    validation.integer("--box-shards", options.box_shards, 0)
    if options.box_shards and options.local:
        raise OptionError("--box-shards needs a cluster; pass --workers or --scheduler")
    if options.threads_per_worker is not None:
        validation.positive("--threads-per-worker", options.threads_per_worker)
        if options.workers is None:
            raise OptionError("--threads-per-worker needs --workers")
    given = [options.workers, options.scheduler, options.scheduler_file]
    if sum(item is not None for item in given) > 1:
        raise OptionError("pass only one of --workers, --scheduler and --scheduler-file")
    tls = (options.tls_ca_file, options.tls_cert, options.tls_key)
    if any(tls) and not all(tls):
        raise OptionError("TLS needs all of --tls-ca-file, --tls-cert and --tls-key")
    for path in (*tls, options.scheduler_file):
        if path is not None and not Path(path).is_file():
            raise OptionError(f"{path} does not exist; check the path")
    if any(tls) and options.scheduler is not None and not options.scheduler.startswith("tls://"):
        raise OptionError(
            f"--scheduler {options.scheduler} is a plain connection but TLS was asked for; "
            "pass its tls:// address"
        )


def _security(options: ClusterOptions) -> Security | None:
    if options.tls_ca_file is None:
        return None
    from distributed import Security

    return Security(
        tls_ca_file=options.tls_ca_file,
        tls_client_cert=options.tls_cert,
        tls_client_key=options.tls_key,
        tls_worker_cert=options.tls_cert,
        tls_worker_key=options.tls_key,
        tls_scheduler_cert=options.tls_cert,
        tls_scheduler_key=options.tls_key,
        require_encryption=True,
    )


@contextlib.contextmanager
def _client(options: ClusterOptions) -> Iterator[Client]:
    import dask
    from distributed import Client

    security = _security(options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.logging.distributed": "critical"}))
        if options.workers is not None:
            target: Any = stack.enter_context(_local_cluster(options, security))
        else:
            target = options.scheduler
        try:
            client = Client(
                target,
                scheduler_file=options.scheduler_file,
                security=security,
                timeout="10s",
                set_as_default=False,
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            where = options.scheduler or options.scheduler_file or "the local cluster"
            raise ClusterError(
                f"cannot connect to {where} ({str(error).splitlines()[0]}); "
                "check that the scheduler runs there and the TLS options fit"
            ) from error
        yield stack.enter_context(client)


@contextlib.contextmanager
def _local_cluster(options: ClusterOptions, security: Security | None) -> Iterator[Any]:
    """Start worker processes on this machine; kernels and Dask threads never exceed the cores."""
    import dask
    from distributed import LocalCluster

    workers = options.workers or 1
    threads = options.threads_per_worker or max(1, default_threads() // workers)
    environment = {
        "BOXNN_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            protocol="tls://" if security else "tcp://",
            security=security,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
    ):
        yield cluster


def worker_report(paths: tuple[str, ...]) -> dict[str, Any]:
    """Return a worker's package version and which of some paths it cannot see."""
    return {
        "version": __version__,
        "missing": [path for path in paths if not Path(path).exists()],
    }


def _check_workers(executor: DaskExecutor, paths: tuple[str, ...]) -> None:
    if executor.slots == 0:
        raise ClusterError(f"{executor.address} has no workers; start some and try again")
    try:
        reports = executor.client.run(functools.partial(worker_report, paths))
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterError(
            f"the workers cannot run boxnn-numba {__version__} ({reason}); "
            "install the same version on every worker"
        ) from error
    for worker, report in reports.items():
        if report["version"] != __version__:
            raise ClusterError(
                f"worker {worker} has boxnn-numba {report['version']}, this is {__version__}; "
                "install the same version on every worker"
            )
        if report["missing"]:
            raise ClusterError(
                f"worker {worker} cannot read {report['missing'][0]}; put it on storage that every "
                "worker sees under the same path"
            )
