"""Fixtures that several test modules use."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.cli_runs import TRAIN
from support.data_files import three_clusters

from boxnn_numba.cli.main import main
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.sources import catalogue as sources
from boxnn_numba.pipelines.training.baselines import train_baseline
from boxnn_numba.training import search

if TYPE_CHECKING:
    from support.cluster_tools import Scheduler

#: Processes that share the whole suite at most: each loads and compiles much on its own.
MOST_PROCESSES = 4

# A script has what it starts in the background ignore Ctrl-C, and all that tests start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share the whole suite out to a process for each core, unless the command says how.

    Here and not in `addopts`, because a few tests start faster in one process, and because
    ``-p no:xdist`` must know all options.
    """
    option = config.option
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (
        not config.pluginmanager.has_plugin("xdist")
        or hasattr(config, "workerinput")  # one of those processes
        or config.args_source is not pytest.Config.ArgsSource.TESTPATHS
        or option.keyword or option.markexpr != "not slow"
        or option.usepdb or option.collectonly or option.capture == "no"
        or option.benchmark_enable or option.numprocesses is not None or option.dist != "no"
        or (cores or 1) < 2
    ):  # fmt: skip
        return
    option.numprocesses = min(cores or 1, MOST_PROCESSES)
    # Neighbours stay together with what their module made; who has nothing left takes some over.
    option.dist = "worksteal"
    # Threads of OpenMP wait for each other in loops that take the core from the other process.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[Any], list[Any]]:
    """Look for doctests in the package only: of a test file that cannot be imported, the collector
    of doctests makes a skip where the one of tests makes an error.
    """
    collectors = yield
    return [item for item in collectors if type(item).__name__ != "DoctestModule"]


@pytest.fixture
def run_boxnn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run `boxnn WORDS...` in a temporary directory; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as leave:
            code = int(leave.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    """A dataset of codes: 3 classes, 12 features, 120 training and 40 test rows in clusters."""
    split = three_clusters(30)
    path = tmp_path / "tiny.zarr"
    # Labels differ from their indices, so that a mix-up shows.
    write_dataset(path, name="tiny", classes=[3, 5, 8], train=split(120), test=split(40))
    return path


@pytest.fixture
def no_data_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a temporary directory; find named data sets nowhere but there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BOXNN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mirror = sources.MIRRORS["fashion-mnist"]
    monkeypatch.setitem(
        sources.MIRRORS, "fashion-mnist", sources.Mirror(mirror.url, mirror.sha256, ("system",))
    )


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search of options choose among one candidate of each kind only."""
    parted = next(c for c in search.CANDIDATES if {"parts", "relaxation"} & {*c} == {"parts"})
    additive = next(c for c in search.CANDIDATES if "relaxation" in c)
    kinds = search.CANDIDATES[0], parted, additive
    monkeypatch.setattr(search, "CANDIDATES", kinds)


@pytest.fixture
def boxnn(
    run_boxnn: Callable[..., tuple[int, str, str]], tiny_dataset: Path
) -> Callable[..., tuple[int, str, str]]:
    """Commands in a directory with `tiny.zarr`."""
    return run_boxnn


@pytest.fixture
def trained(boxnn: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Commands in a directory with `tiny.zarr` and `model.zarr`."""
    assert boxnn(*TRAIN)[0] == 0
    return boxnn


@pytest.fixture
def ra(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A model of randomized ablation for `tiny.zarr`, by the networks that are installed."""
    train_baseline(tiny_dataset, tmp_path / "ra", method="ra", retained=4)
    return tmp_path / "ra"


@pytest.fixture
def fpa(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A model of feature partition for `tiny.zarr`, by the networks that are installed."""
    train_baseline(tiny_dataset, tmp_path / "fpa", method="fpa", parts=5, partition="random")
    return tmp_path / "fpa"


# --- clusters, which tests share: a process that imports Dask costs seconds -----------------


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """A scheduler to which a test adds workers, and from which it takes them again."""
    from support.cluster_tools import Started

    with Started(tmp_path_factory.mktemp("bare")) as started:
        yield started.scheduler()


@pytest.fixture(scope="session")
def external(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """A scheduler with two workers, started as a user starts them."""
    from support.cluster_tools import Started, wait_for_workers

    with Started(tmp_path_factory.mktemp("cluster")) as started:
        scheduler = started.scheduler()
        for _ in range(2):
            started.worker(scheduler.address, "--no-nanny")
        wait_for_workers(scheduler, 2)
        yield scheduler
