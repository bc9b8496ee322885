"""The machine that figures were measured on: processor, features, memory, versions, load."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from boxnn_numba._version import versions

_PACKAGES = (
    "numpy", "numba", "llvmlite", "zarr", "dask", "scipy", "scikit-learn", "torch", "jax", "jaxlib",
)  # fmt: skip
_FEATURES = ("avx2", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi", "amx-int8", "neon")


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on: processor, its features, versions, load and date."""
    import llvmlite.binding as llvm

    from boxnn_numba.backends.threads import default_threads
    from boxnn_numba.kernels import simd_operations

    host = llvm.get_host_cpu_features()
    return {
        "cpu": _cpu_model(),
        "cores": default_threads(),
        "threads": threads,
        "features": [name for name in _FEATURES if host.get(name)],
        "simd_target": simd_operations.TARGET,
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(*_PACKAGES),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
