"""RunOptions and Result: where and how a job runs, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.cluster.clients import checked_client, client_in_scope
from boxnn_numba.pipelines.cluster.main_guard import need_main_guard
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions
from boxnn_numba.progress import SILENT, Progress

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class RunOptions:
    """Where and how a job runs; no option changes the bits of its result.

    Attributes
    ----------
    overwrite, resume
        Replace an existing output; continue a run that was stopped, also one that was started with
        `overwrite`.
    no_lock
        Neither check nor take the lock of the output: for file systems without locks, or to take
        over from a run that is known to be dead.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``, as for `get_backend`. On a cluster, ``"cuda"`` is for
        the workers, which need a GPU each.
    threads
        Threads of the kernels; all cores by default.
    chunk
        Rows of an array on a GPU at a time; by default as many as fit easily.
    cluster
        Where the work is done: a cluster to start or to connect to, or this process
        (``IN_PROCESS``). By default the cluster of the client in scope, as in ``with Client(...)``,
        or this process if there is none. Its `box_shards`, `share_gpus` and `performance_report`
        also apply to a client.
    client
        A `distributed.Client` whose cluster does the work; it is not closed.
    progress
        Receives the progress of the job, e.g. a `boxnn_numba.progress.ConsoleProgress`.
    log
        File of JSON lines: training adds a line for each epoch, certification and attacks a line
        for each chunk. Other jobs write no log. See `boxnn_numba.data.run_log`.

    Raises
    ------
    OptionError, ClusterError
        `client` is not a Dask client, is closed or asynchronous, or `cluster` is given too.
    """

    overwrite: bool = False
    resume: bool = False
    no_lock: bool = False
    device: str = "auto"
    threads: int | None = None
    chunk: int | None = None
    cluster: ClusterOptions | None = None
    client: Client | None = None
    progress: Progress = SILENT
    log: Name | None = None

    def __post_init__(self) -> None:
        if self.client is None:
            return
        checked_client(self.client)
        if self.cluster is not None and (not self.cluster.local or self.cluster == IN_PROCESS):
            raise OptionError("`client` and `cluster` name two places to work; pass one of them")

    @property
    def local(self) -> bool:
        """Whether the work is done in this process; settled by `using`."""
        return self.client is None and (self.cluster is None or self.cluster.local)

    @property
    def writing(self) -> dict[str, Any]:
        """How an output that can be resumed is written, as `staged_output` takes it."""
        return {"overwrite": self.overwrite, "resume": self.resume, "no_lock": self.no_lock}

    def need_cpu(self, what: str) -> None:
        """Raise unless work of some kind, which runs in this process, has a CPU and threads.

        Raises
        ------
        OptionError
            The device is another, or `threads` is below 1.
        """
        if self.device not in ("auto", "cpu"):
            raise OptionError(
                f"device is {self.device!r}; {what} run on the CPU, leave out `device`"
            )
        get_backend("cpu", self.threads)

    def using(self, client: Client | None = None) -> RunOptions:
        """Return these with a client, if one is given, and it settled where the work is done."""
        if client is not None:
            return replace(self, client=client)
        if self.cluster is not None and self.cluster.workers is not None:
            need_main_guard()
        if self.client is not None or not self.local or self.cluster == IN_PROCESS:
            return self
        found = client_in_scope()
        if found is not None:
            return replace(self, client=found)
        if self.cluster is not None:
            self.cluster.need_cluster()
        return replace(self, cluster=IN_PROCESS)


@dataclass(frozen=True)
class Result:
    """The result of a job, as attributes."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, leaving out optional fields that are None."""
        found = {item.name: (item.default, getattr(self, item.name)) for item in fields(self)}
        return {
            name: value.as_dict() if isinstance(value, Result) else value
            for name, (default, value) in found.items()
            if not (value is None and default is None)
        }


#: In this process, on all cores, silently; existing outputs are not replaced.
DEFAULT_RUN = RunOptions()
