"""How a job runs: what may differ between two runs without a difference in their results."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from boxnn_numba.data.paths import Name
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions
from boxnn_numba.progress import SILENT, Progress


@dataclass(frozen=True)
class RunOptions:
    """Where and how a job runs; none of it changes the bits of its result.

    Attributes
    ----------
    overwrite, resume
        Replace what is at the output; continue a run that was stopped.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``, as for `get_backend`. On a cluster, ``"cuda"`` is for
        the workers, which need a GPU each.
    threads
        Threads of the kernels; all cores by default.
    chunk
        Rows of an array that are on a GPU at a time; by default what fits easily.
    cluster
        Where the work is done; in this process by default.
    progress
        Is told how far the job is.
    log
        File of JSON lines that grows while a job runs: training adds one an epoch, certification
        and attacks one a chunk. Other jobs keep none. See `boxnn_numba.data.run_log`.
    """

    overwrite: bool = False
    resume: bool = False
    device: str = "auto"
    threads: int | None = None
    chunk: int | None = None
    cluster: ClusterOptions = IN_PROCESS
    progress: Progress = SILENT
    log: Name | None = None


@dataclass(frozen=True)
class Result:
    """What a job has found, in attributes."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, without what it may have (None by default) and has not."""
        found = {item.name: (item.default, getattr(self, item.name)) for item in fields(self)}
        return {
            name: value.as_dict() if isinstance(value, Result) else value
            for name, (default, value) in found.items()
            if not (value is None and default is None)
        }


#: In this process, on all cores, silently; nothing is replaced.
DEFAULT_RUN = RunOptions()
