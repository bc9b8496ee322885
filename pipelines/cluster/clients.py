"""Clients of a cluster that callers made: checked, found in scope, never closed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from boxnn_numba.errors import ClusterError, OptionError

if TYPE_CHECKING:
    from distributed import Client


def checked_client(client: Any) -> Client:
    """Return a client that was given; raise if it cannot be used."""
    distributed = sys.modules.get("distributed")  # not imported: there is no client
    if distributed is None or not isinstance(client, distributed.Client):
        raise OptionError(f"`client` is {_described(client)}")
    if client.status in ("closed", "closing"):
        raise ClusterError("`client` is closed; make a new `distributed.Client`")
    if client.asynchronous:
        raise OptionError(
            "`client` is asynchronous; pass one that was made without `asynchronous=True`, or "
            "`cluster=IN_PROCESS` to `RunOptions`"
        )
    return client


def _described(value: Any) -> str:
    """Describe something that is no client, and say what to pass in its place."""
    if isinstance(value, str):
        return (
            f"{value!r}, an address; pass `distributed.Client({value!r})`, or "
            f"`RunOptions(cluster=ClusterOptions(scheduler={value!r}))`"
        )
    kind = type(value).__name__
    if callable(getattr(value, "get_client", None)):
        return f"a {kind}; pass `cluster.get_client()`, its client"
    return f"a {kind}; pass a `distributed.Client`"


def client_in_scope() -> Client | None:
    """Return the client of Dask's computations here, as in ``with Client(...)``; or None.

    A task on a worker has none: it would wait for others that wait for its thread.
    """
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        distributed.get_worker()
    except ValueError:
        pass
    else:
        return None
    try:
        return checked_client(distributed.default_client())
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        return None
