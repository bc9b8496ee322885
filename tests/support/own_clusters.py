"""Clusters that other packages start, as a script: jobs of a queue, and hosts over SSH.

Those packages leave processes and pipes to the end of the interpreter, so each has one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed import Client, SSHCluster
from support.cluster_tools import OPTIONS

from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.training.train import train

_LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}


@contextlib.contextmanager
def jobs(folder: Path) -> Iterator[Any]:
    """Two jobs of a queue, which here runs them at once."""
    queue = importlib.import_module("dask_jobqueue.local")
    with queue.LocalCluster(
        cores=1, memory="2 GB", processes=1, python=sys.executable, n_workers=2,
        log_directory=str(folder), local_directory=str(folder), scheduler_options=_LOOPBACK,
        worker_extra_args=["--host", "127.0.0.1", "--no-dashboard"],
    ) as cluster:  # fmt: skip
        yield cluster


@contextlib.contextmanager
def hosts(folder: Path) -> Iterator[Any]:
    """A scheduler and a worker that are started over SSH."""
    asyncssh = importlib.import_module("asyncssh")
    key, loop = asyncssh.generate_private_key("ssh-ed25519"), asyncio.new_event_loop()

    class OneUser(asyncssh.SSHServer):  # type: ignore[misc]
        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, given: Any) -> bool:
            return bool(given == key.convert_to_public())

    async def run(asked: Any) -> None:
        shell = await asyncio.create_subprocess_shell(
            asked.command, stdin=-1, stdout=-1, stderr=-1, cwd=folder
        )
        await asked.redirect(stdin=shell.stdin, stdout=shell.stdout, stderr=shell.stderr)
        await shell.wait()
        asked.exit(shell.returncode)

    async def serve() -> Any:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=OneUser, process_factory=run, server_host_keys=[key]
        )

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(serve(), loop).result(20)
    try:
        with SSHCluster(
            ["127.0.0.1", "127.0.0.1"],
            connect_options={
                "port": server.get_port(), "username": "one", "client_keys": [key],
                "known_hosts": None,
            },
            worker_options={"nthreads": 2, "host": "127.0.0.1"},
            scheduler_options={"port": 0, **_LOOPBACK},
        ) as cluster:  # fmt: skip
            yield cluster
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(server.wait_closed(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def main(kind: str, model: str, data: str, out: str) -> None:
    """Train to ``out/m`` and certify to ``out/c`` by a client of a cluster."""
    started = {"jobqueue": jobs, "ssh": hosts}[kind]
    with started(Path(out)) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=60)
        trained = train(data, Path(out, "m"), OPTIONS, client=client)
        certified = certify(model, data, Path(out, "c"))
    assert trained.cluster is not None and certified.cluster is not None
    print("tasks:", certified.cluster.tasks)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
