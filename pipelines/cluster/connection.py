"""Connection to a Dask cluster: started or found, with TLS, its workers checked."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from boxnn_numba import __version__
from boxnn_numba.backends.threads import default_threads
from boxnn_numba.data.paths import exists, location, storage_errors
from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines.cluster.options import ClusterOptions

if TYPE_CHECKING:
    from distributed import Client, Security

#: How long to wait for a scheduler, for its first worker, and to reconnect.
_CONNECT_SECONDS = 10
#: How often to ask workers about themselves while some are lost, and how long to wait between.
_REPORTS, _REPORT_SECONDS = 10, 0.5
#: Attempts to start local workers.
_STARTS = 4
#: Dask's profiler and ticks, 100 times a second, would take 5% of a core in every process.
_CALM = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
#: Run first by local workers: Ctrl-C in a terminal reaches them too, but it is for the client.
_IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


def _security(options: ClusterOptions) -> Security | None:
    """Return how connections are encrypted, on this machine by keys that are made for the run.

    A scheduler without keys runs what any process that reaches its port sends it.
    """
    from distributed import Security

    if options.tls_ca_file is None:
        return None if options.workers is None else Security.temporary()
    roles = {
        f"tls_{role}_{kind}": path
        for role in ("client", "worker", "scheduler")
        for kind, path in (("cert", options.tls_cert), ("key", options.tls_key))
    }
    return Security(tls_ca_file=options.tls_ca_file, require_encryption=True, **roles)


@contextlib.contextmanager
def open_client(options: ClusterOptions) -> Iterator[Client]:
    """Connect to the cluster that the options name, starting it if it is to be started."""
    from distributed import Client

    security = _security(options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        if options.workers is not None:
            target: Any = stack.enter_context(_local_cluster(options, security))
        else:
            target = options.address
        # Made and started in two steps, because a client that could not start has to be closed:
        # left to the end of the interpreter it waits for seconds and prints a traceback.
        client = Client.__new__(Client)
        try:
            Client.__init__(
                client, target, security=security, timeout=_CONNECT_SECONDS, set_as_default=False
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            client.close()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ClusterError(
                f"cannot connect to {target if options.workers is None else 'the local cluster'} "
                f"({reason}); check that the scheduler runs there and the certificates fit"
            ) from error
        yield stack.enter_context(client)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log lines off standard error: what matters is raised."""
    names = ("distributed", "tornado", "tornado.application", "bokeh")
    handlers = [(item, item.level) for name in names for item in logging.getLogger(name).handlers]
    # It has no handler of its own; it speaks when connections break in the background.
    background = logging.getLogger("asyncio")
    disabled = background.disabled
    for handler, _ in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    background.disabled = True
    try:
        yield
    finally:
        background.disabled = disabled
        for handler, level in handlers:
            handler.setLevel(level)


@contextlib.contextmanager
def _local_cluster(options: ClusterOptions, security: Security | None) -> Iterator[Any]:
    """Start worker processes on this machine; kernels and Dask threads never exceed the cores."""
    import dask
    from distributed import LocalCluster

    workers = options.workers or 1
    threads = options.threads_per_worker or max(1, default_threads() // workers)
    names = ("BOXNN", "NUMBA", "OMP", "MKL", "OPENBLAS")
    environment = {f"{name}_NUM_THREADS": "1" for name in names}
    # Nannies set these in this process, for its children; the client itself keeps all threads.
    stack = contextlib.ExitStack()
    stack.callback(_restore_environment, {name: os.environ.get(name) for name in environment})
    preload = dask.config.get("distributed.worker.preload")
    preload = [preload] if isinstance(preload, str) else list(preload)
    settings = {"distributed.nanny.pre-spawn-environ": environment, **_CALM}
    if options.performance_report is not None:  # which shows what the profiler has seen
        settings["distributed.worker.profile.enabled"] = True
    with stack, dask.config.set(settings):
        for attempt in range(_STARTS):
            try:
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=threads,
                    processes=True,
                    host="127.0.0.1",
                    protocol="tls://" if security else "tcp://",
                    security=security,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=50,
                    preload=[*preload, _IGNORE_CTRL_C],
                )
                break
            except (RuntimeError, TimeoutError) as error:  # one was killed before it was ready
                if attempt + 1 == _STARTS:
                    raise ClusterError(
                        f"cannot start {workers} local workers ({error.__cause__ or error}); pass "
                        "fewer `workers`, free some memory, or see that your script starts them "
                        'under `if __name__ == "__main__":`'
                    ) from error
        with cluster:
            yield cluster


def _restore_environment(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def worker_report(paths: tuple[str, ...]) -> dict[str, Any]:
    """Return a worker's package version and which of some paths it cannot see."""
    return {"version": __version__, "missing": [path for path in paths if not _sees(path)]}


def _sees(path: str) -> bool:
    try:
        with storage_errors():
            return exists(location(path))
    except OSError:
        return False


def _reports(client: Client, paths: tuple[str, ...]) -> dict[str, Any]:
    """Return what every worker says of itself; one that dies meanwhile is left out."""
    reports: dict[str, Any] = {}
    for _ in range(_REPORTS):
        try:
            client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError:
            raise ClusterError(
                f"{client.scheduler.address} has no workers; start some and try again"
            ) from None
        reports = client.run(functools.partial(worker_report, paths), on_error="return")
        if reports and not any(isinstance(report, OSError) for report in reports.values()):
            break
        time.sleep(_REPORT_SECONDS)
    return reports


def check_workers(client: Client, paths: tuple[str, ...]) -> None:
    """Check that there are workers of this version that can read some paths."""
    for worker, report in _reports(client, paths).items():
        if isinstance(report, BaseException):
            reason = (str(report).splitlines() or [type(report).__name__])[0]
            raise ClusterError(
                f"worker {worker} cannot run boxnn-numba {__version__} ({reason}); "
                "install the same version on every worker"
            )
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
