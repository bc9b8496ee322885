"""One GPU for every worker of a cluster, by their order on each machine."""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from boxnn_numba.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpu_report() -> tuple[str, list[str]]:
    """Return the machine of this process, and the GPUs that it may use."""
    visible = os.environ.get(_VISIBLE)
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        devices = ["0"]
    elif visible is not None:
        # CUDA reads it so: all before the first entry that is no GPU, such as -1.
        words = (word.strip() for word in visible.split(","))
        devices = list(itertools.takewhile(lambda word: word and word[0] != "-", words))
    else:
        devices = [str(index) for index in range(_gpu_count())]
    return socket.gethostname(), devices


def _gpu_count() -> int:
    """Count GPUs without starting CUDA, which would tie this process to all of them."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if library.nvmlInit_v2() != 0:
        return 0
    found = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    library.nvmlShutdown()
    return count.value if found else 0


def assign(reports: Mapping[str, tuple[str, list[str]]], share: bool) -> dict[str, str]:
    """Return the GPU of each worker, given its machine and the GPUs that it may use.

    Several workers `share` one only where there are too few and they may.
    """
    users: dict[tuple[str, str], int] = {}
    chosen = {}
    for worker, (host, devices) in reports.items():
        if not devices:
            raise ClusterError(
                f"worker {worker} has no NVIDIA GPU; start workers where there is one or use "
                "`device` cpu"
            )
        device = min(devices, key=lambda item: users.get((host, item), 0))
        if users.get((host, device), 0) and not share:
            raise ClusterError(
                f"{host} has more workers than GPUs ({len(devices)} for worker {worker}); start "
                "one worker for each or pass `share_gpus`"
            )
        users[host, device] = users.get((host, device), 0) + 1
        chosen[worker] = device
    return chosen


def give_gpus(client: Client, share: bool) -> None:
    """Let every worker see one GPU, its own; workers that are started again get the same.

    A worker that joins later uses the first GPU that it sees.
    """
    from distributed import WorkerPlugin

    class OneGpu(WorkerPlugin):
        name = "boxnn-gpu"

        def __init__(self, devices: dict[Any, str]) -> None:
            self.devices = devices

        def setup(self, worker: Any) -> None:
            if worker.name in self.devices:
                os.environ[_VISIBLE] = self.devices[worker.name]

    reports = client.run(gpu_report)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    order = sorted(reports, key=lambda address: _natural(workers[address]["name"]))
    devices = assign({address: reports[address] for address in order}, share)
    client.register_plugin(OneGpu({workers[a]["name"]: d for a, d in devices.items()}))


def _natural(name: Any) -> tuple[int, str]:
    """Sort names that are numbers as such."""
    return (name, "") if isinstance(name, int) else (-1, str(name))
