"""An object store: a real S3 server on loopback, its leases, and runs that are killed."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.asyn
import numpy as np
import pytest
import zarr.core.sync
from fsspec.implementations.memory import MemoryFileSystem
from support.cli_runs import Run, failed
from support.interruptions import BOXNN, assert_same_model, kill, wait_for
from upath import UPath

from boxnn_numba import load_model
from boxnn_numba.data import dataset as store
from boxnn_numba.data import locks
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.data.locks import held
from boxnn_numba.data.paths import location
from boxnn_numba.errors import OptionError, OutputError


@pytest.fixture(autouse=True)
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.1)


def expire(place: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases expire that nobody renews; the server counts seconds."""
    seconds = 1.0 if place.protocol == "s3" else 0.2
    monkeypatch.setattr(locks, "LEASE_SECONDS", seconds)
    time.sleep(2.1 * seconds)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that knows what this process's environment says."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        address = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in (
            ("AWS_ENDPOINT_URL", address),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(name, value)
        yield address
    for file_system in s3fs.S3FileSystem._cache.values():
        if file_system._s3 is None:
            continue
        if file_system.asynchronous:  # it was opened in the loop of Zarr
            zarr.core.sync.sync(file_system._s3.close())
        else:
            fsspec.asyn.sync(file_system.loop, file_system._s3.close)
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest) -> UPath:
    name = request.node.name.split("[")[0].replace("_", "-")[:60]
    folder = UPath(f"s3://{name}/in", use_listings_cache=False)
    folder.fs.mkdir(name)
    return folder


def listing(folder: UPath) -> set[str]:
    return {
        name[len(folder.path) :].strip("/").split("/")[0] for name in folder.fs.find(folder.path)
    }


# --- runs ----------------------------------------------------------------------------------

#: The commands, stuck for good after the third epoch or chunk, until they are killed.
STUCK_BOXNN = [
    *BOXNN[:-1],
    """
import time
from boxnn_numba.cli.main import main
from boxnn_numba.pipelines import chunks
from boxnn_numba.training.run import Training

def stuck(function, calls=iter([1, 2, 3])):
    def run(*arguments, **options):
        if next(calls, None) is None:
            time.sleep(300)
        return function(*arguments, **options)
    return run

Training.run_epoch = stuck(Training.run_epoch)
chunks.write_chunk = stuck(chunks.write_chunk)
main()
""",
]

TRAIN = (
    "train {data} --out {out} --preset graded --boxes 6 --epochs 6 --lr 0.02 --batch 20 "
    "--validation 0.2 --threads 1 -q"
)  # fmt: skip
CERTIFY = "certify {model} {data} --out {out} --split train -q"


def data_with_chunks(folder: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = open_dataset(tiny).read("train")
    monkeypatch.setattr(store, "CHUNK_BYTES", 12 * 12)
    write_dataset(folder, name="d", classes=[3, 5, 8], train=(x, y), test=(x, y))


def test_killed_runs_give_way_and_resume_to_the_same_bits(
    boxnn: Run, bucket: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (Path(), bucket):
        data_with_chunks(place / "d.zarr", Path("tiny.zarr"), monkeypatch)
    assert open_dataset("d.zarr").digest == open_dataset(bucket / "d.zarr").digest
    whole = {"data": "d.zarr", "model": "whole"}
    for words, out in ((TRAIN, "whole"), (CERTIFY, "cert")):
        assert boxnn(*words.format(**whole, out=out).split())[0] == 0
    ours = {"data": f"{bucket}/d.zarr", "model": "whole"}
    train = TRAIN.format(**ours, out=f"{bucket}/m").split()
    certify = CERTIFY.format(**ours, out=f"{bucket}/c").split()
    with contextlib.ExitStack() as stack:
        runs = [subprocess.Popen([*STUCK_BOXNN, *words]) for words in (train, certify)]
        for run in runs:
            stack.callback(run.wait)
            stack.callback(run.kill)
        begun = (bucket / "m.partial/checkpoint.npz", bucket / "c.partial/finished/c/2")
        for run, words, sign in zip(runs, (train, certify), begun, strict=True):
            wait_for(lambda sign=sign: time.sleep(0.1) or sign.exists(), run)  # type: ignore[misc]
            for option in ("--resume", "--overwrite"):
                told = (f"process {run.pid}, since 2", "host ", "--no-lock if it runs no more")
                failed(boxnn(*words, option), 1, "another run is writing s3://", *told)
        for run in runs:
            kill(run)
    failed(boxnn(*train, "--resume"), 1, f"process {runs[0].pid}")
    assert boxnn(*certify, "--resume", "--no-lock")[0] == 0
    expire(bucket, monkeypatch)
    assert boxnn(*train, "--resume")[0] == 0
    assert_same_model(load_model(bucket / "m"), load_model("whole"))
    one, two = (open_certificate(path) for path in (bucket / "c", "cert"))
    assert one.attributes["digests"] == two.attributes["digests"]
    assert listing(bucket) == {"d.zarr", "m", "c", ".c.lock"}


def test_every_command_gives_the_bits_of_the_disk(boxnn: Run, bucket: UPath) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez("x.npz", x=rng.normal(size=(120, 5)) + 2 * y[:, None], y=y)
    steps = (
        "data ingest x.npz --out {0}/d.zarr",
        "train {0}/d.zarr --out {0}/m.zip --preset graded --boxes 9 --epochs 1",
        "certify {0}/m.zip {0}/d.zarr --out {0}/c.zarr",
        "certify {0}/m.zip {0}/d.zarr --out {0}/c.zarr --overwrite",
        "evaluate {0}/c.zarr --radii 0,1",
        "export certificates {0}/c.zarr --out {0}/c.csv",
    )
    Path("local").mkdir()
    for folder in ("local", str(bucket)):
        for step in steps:
            code, _, errors = boxnn(*step.format(folder).split(), "--json")
            assert (code, errors) == (0, ""), step
    one, two = (open_dataset(location(f"{place}/d.zarr")) for place in ("local", bucket))
    assert one.digest == two.digest
    assert_same_model(load_model("local/m.zip"), load_model(bucket / "m.zip"))
    one, two = (open_certificate(location(f"{place}/c.zarr")) for place in ("local", bucket))
    assert one.attributes["digests"] == two.attributes["digests"]
    assert listing(bucket) == {"d.zarr", "m.zip", "c.zarr", "c.csv"}


# --- leases --------------------------------------------------------------------------------


@pytest.fixture(params=["s3", "memory", "ignored", "refused"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[UPath]:
    """A folder of stores that can create exclusively, that do not heed it, and that cannot."""
    if request.param == "s3":
        yield request.getfixturevalue("bucket")
        return
    put = MemoryFileSystem.pipe_file

    def put_anyhow(self: Any, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create" and request.param == "refused":
            raise NotImplementedError
        put(self, path, value)

    if request.param != "memory":
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", put_anyhow)
    folder = UPath("memory://leases", use_listings_cache=False)
    yield folder
    if folder.exists():
        folder.fs.rm(folder.path, recursive=True)


def test_one_writer_at_a_time(place: UPath) -> None:
    with held(place / "m") as lease:
        about = json.loads((place / ".m.lock").read_text())
        with (
            pytest.raises(OutputError, match=f"host {about['host']}, process {about['process']}"),
            held(place / "m"),
        ):
            raise AssertionError("the body must not run")
        with held(place / "m", no_lock=True), held(place / "n"):
            assert lease.holds()
    assert listing(place) == set()


def test_of_many_writers_at_once_one_goes_on(place: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.5)  # threads may be held up
    barrier, inside, refused = threading.Barrier(4), [], []

    def write() -> None:
        barrier.wait()
        try:
            with held(place / "m"):
                inside.append(1)
                barrier.wait()
        except OutputError as error:
            refused.append(error)
            barrier.wait()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 3)
    assert listing(place) == set()


def test_a_lease_is_renewed_or_lost(place: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = place / ".m.lock"
    with held(place / "m"):
        began = lock.fs.modified(lock.path)
        while lock.fs.modified(lock.path) == began:
            time.sleep(0.1)
    with pytest.raises(OutputError, match="no longer this run's"), staged_output(place / "m"):
        # Another took it, and is at work in the same unfinished folder.
        lock.write_text('{"format": "boxnn-lease"}')
        (place / "m.partial" / "theirs").write_text("half")
    assert listing(place) == {".m.lock", "m.partial"}
    with pytest.raises(OutputError, match="another run"), held(place / "m"):
        pass
    expire(place, monkeypatch)
    with staged_output(place / "m", overwrite=True) as partial:
        (partial / "whole").write_text("whole")
    assert listing(place) == {"m"}


def test_a_foreign_object_at_the_name_of_the_lease_stays(place: UPath) -> None:
    for text in ("years of work", "[1]", ""):
        (place / ".m.lock").write_text(text)
        with pytest.raises(OptionError, match="in the way"), held(place / "m"):
            pass
        assert (place / ".m.lock").read_text() == text


@pytest.mark.parametrize("place", ["memory://kept/m", "m"])
def test_an_unfinished_run_is_kept_where_something_was_done(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for done in (False, True):
        with pytest.raises(ValueError, match="ended"), staged_output(place, resumable=True) as part:
            if done:
                (part / "checkpoint").write_bytes(b"1")
            raise ValueError("ended")
        assert part.exists() == done
    with staged_output(place, resumable=True, resume=True) as part:
        assert (part / "checkpoint").read_bytes() == b"1"


def test_a_store_that_is_lost_hides_no_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), staged_output("memory://lost/m"):
        monkeypatch.setattr(MemoryFileSystem, "cat_file", _unreachable)
        raise KeyboardInterrupt


def _unreachable(*_: Any, **__: Any) -> None:
    raise OSError("no network")
