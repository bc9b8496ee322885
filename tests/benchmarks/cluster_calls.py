"""Ways to call workers on every step, side by side: why training uses a worker plugin.

    python tests/benchmarks/cluster_calls.py --rounds 100

Two local workers are called with nothing, and with what a step of MNIST sends (350 KB of changes to
both, 785 KB of samples to each) for 200 KB, in turns: by calls of our plugin, actors, the RPC
`run` that is not public, `Client.run`, and tasks. The seconds of a round are those that a
quarter of the rounds stayed below; those of the client's processor are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from distributed import Client, LocalCluster, get_worker
from distributed.protocol.pickle import dumps

from boxnn_numba.pipelines.cluster.dask_executor import DaskExecutor

#: Bytes that go to all workers, that go to each, and of an answer.
CHANGES, SAMPLES, ANSWER = 350_000, 785_000, 200_000
#: Seconds after which nothing of a way is left to do, such as forgetting tasks.
PAUSE = 0.02


def answer(own: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return some of what came (runs on a worker)."""
    return own[:ANSWER]


async def in_thread(*arguments: np.ndarray, dask_worker: Any) -> Any:
    """Answer in a thread of the worker."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(dask_worker.executor, answer, *arguments)


class Answers:
    """An actor."""

    async def answer(self, *arguments: np.ndarray) -> Any:
        """Answer in a thread of the worker."""
        return await in_thread(*arguments, dask_worker=get_worker())


def ways(client: Client) -> dict[str, Callable[[np.ndarray, np.ndarray], Any]]:
    """Return each way to give an array of its own, and one of all, to every worker."""
    executor, workers = DaskExecutor(client), sorted(client.nthreads())
    actors = [
        client.submit(Answers, actor=True, workers=[worker], pure=False).result()
        for worker in workers
    ]

    async def by_actors(own: np.ndarray, common: np.ndarray) -> Any:
        return await asyncio.gather(*(actor.answer(own, common) for actor in actors))

    async def by_rpc(own: np.ndarray, common: np.ndarray) -> Any:
        arguments = (dumps((own, common)) for _ in workers)
        return await asyncio.gather(
            *(
                client.rpc(worker).run(function=dumps(in_thread), args=packed)
                for worker, packed in zip(workers, arguments, strict=True)
            )
        )

    return {
        "plugin": lambda own, common: executor.call_each(
            answer, [(worker, (own,)) for worker in workers], (common,)
        ),
        "actors": lambda own, common: client.sync(by_actors, own, common),
        "RPC run": lambda own, common: client.sync(by_rpc, own, common),
        "Client.run": lambda own, common: client.run(in_thread, own, common),
        "tasks": lambda own, common: client.gather(
            [client.submit(answer, own, common, workers=[worker], pure=False) for worker in workers]
        ),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    sizes = {"nothing": (1, 1), "a step of MNIST": (SAMPLES, CHANGES)}
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, direct_to_workers=True) as client,
    ):
        found, rng = ways(client), np.random.default_rng(0)
        for case, size in sizes.items():
            arrays = [np.zeros(n, np.uint8) for n in size]
            spent: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
            for _ in range(rounds):
                for name in rng.permutation(list(found)):
                    began = time.perf_counter(), time.process_time()
                    found[name](*arrays)
                    ended = time.perf_counter(), time.process_time()
                    time.sleep(PAUSE)
                    spent[name].append((ended[0] - began[0], ended[1] - began[1]))
            for name, pairs in spent.items():
                wall, processor = np.array(pairs[3:]).T
                sys.stdout.write(
                    f"{case:<16} {name:<11} {1e3 * np.quantile(wall, 0.25):6.2f} ms, client "
                    f"{1e3 * np.median(processor):5.2f} ms\n"
                )


if __name__ == "__main__":
    main()
