"""Options of a Dask cluster: which cluster a run uses, if any, and checks of combinations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from boxnn_numba import validation
from boxnn_numba.errors import OptionError


@dataclass(frozen=True)
class ClusterOptions:
    """The cluster that a job uses.

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
        Split the boxes of a training run into this many parts, for models that do not fit a
        worker; with 0 every worker gets all boxes.
    share_gpus
        Let several workers use one GPU if there are more workers than GPUs.

    Raises
    ------
    OptionError
        The options do not fit together, or a file is missing.
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
    share_gpus: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None:
            validation.positive("workers", self.workers)
        if self.threads_per_worker is not None:
            validation.positive("threads_per_worker", self.threads_per_worker)
            if self.workers is None:
                raise OptionError("`threads_per_worker` needs `workers`")
        validation.integer("box_shards", self.box_shards, 0)
        if sum(x is not None for x in (self.workers, self.scheduler, self.scheduler_file)) > 1:
            raise OptionError("pass only one of `workers`, `scheduler` and `scheduler_file`")
        tls = (self.tls_ca_file, self.tls_cert, self.tls_key)
        if any(tls) and not all(tls):
            raise OptionError("TLS needs all of `tls_ca_file`, `tls_cert` and `tls_key`")
        for path in (*tls, self.scheduler_file):
            if path is not None and not Path(path).is_file():
                raise OptionError(f"{path} does not exist; check the path")
        address = self.address
        if any(tls) and address is not None and not address.startswith("tls://"):
            raise OptionError(
                f"`scheduler` {address} is a plain connection but TLS was asked for; "
                "pass its tls:// address"
            )
        report = self.performance_report
        if report is not None and not Path(report).absolute().parent.is_dir():
            raise OptionError(
                f"the folder of `performance_report` {report} does not exist; create it"
            )

    def need_cluster(self) -> None:
        """Refuse what only clusters do."""
        for name in ("box_shards", "share_gpus"):
            if getattr(self, name):
                raise OptionError(f"`{name}` needs a cluster; pass `workers` or `scheduler`")

    def refuse_for(self, what: str, *names: str) -> None:
        """Refuse options that mean nothing for a kind of job."""
        for name in names:
            if getattr(self, name):
                raise OptionError(f"`{name}` is not for {what}; leave it out")

    @property
    def local(self) -> bool:
        """Whether these name no cluster."""
        return self.workers is None and self.scheduler is None and self.scheduler_file is None

    @property
    def address(self) -> str | None:
        """The address of a running scheduler; None where one is to be started."""
        if self.scheduler_file is None:
            return self.scheduler
        try:
            return str(json.loads(Path(self.scheduler_file).read_text("utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{self.scheduler_file} is not a scheduler file; pass the one that "
                "`dask scheduler --scheduler-file` writes"
            ) from error


#: Everything in this process, whatever client is in scope.
IN_PROCESS = ClusterOptions()
