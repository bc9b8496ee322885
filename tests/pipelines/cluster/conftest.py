"""Schedulers that tests of clusters share: a process that imports Dask costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cluster_tools import Scheduler, Started, wait_for_workers


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """A scheduler to which a test adds workers, and from which it takes them again."""
    with Started(tmp_path_factory.mktemp("bare")) as started:
        yield started.scheduler()


@pytest.fixture(scope="session")
def external(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """A scheduler with two workers, started as a user starts them."""
    with Started(tmp_path_factory.mktemp("cluster")) as started:
        scheduler = started.scheduler()
        for _ in range(2):
            started.worker(scheduler.address, "--no-nanny")
        wait_for_workers(scheduler, 2)
        yield scheduler
