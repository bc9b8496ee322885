"""Which Dask cluster a run uses, if any."""

from __future__ import annotations

from dataclasses import dataclass


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
    share_gpus
        Let several workers use one GPU where there are more workers than GPUs.
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

    @property
    def local(self) -> bool:
        """Whether everything runs in this process."""
        return self.workers is None and self.scheduler is None and self.scheduler_file is None


#: Everything in this process.
IN_PROCESS = ClusterOptions()
