"""Threads: how many this process may use, and how many its callers let it use."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator

from boxnn_numba import validation
from boxnn_numba.errors import OptionError

_LIMIT: contextvars.ContextVar[int | None] = contextvars.ContextVar("boxnn_threads", default=None)


@contextlib.contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Make `threads` the default of this thread's calls inside the body; None changes nothing."""
    token = _LIMIT.set(_LIMIT.get() if threads is None else threads)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def default_threads() -> int:
    """Return the limit in force, ``BOXNN_NUM_THREADS``, or the cores that this process may use."""
    limit = _LIMIT.get()
    if limit is not None:
        return limit
    forced = os.environ.get("BOXNN_NUM_THREADS")
    if forced is not None:
        try:
            return validation.positive("BOXNN_NUM_THREADS", int(forced))
        except ValueError:
            raise OptionError(
                f"BOXNN_NUM_THREADS is {forced!r}; it must be a whole number of at least 1"
            ) from None
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
