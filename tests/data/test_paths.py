"""Stores named by URLs: the same bits as local ones, whole or refused, errors of one line."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.cli_runs import Run, failed
from support.interruptions import OPTIONS, Stopper, assert_same_model
from upath import UPath

from boxnn_numba import load_model, save_model
from boxnn_numba.data.atomic import output_folder, staged_output
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset, verify_dataset, write_dataset
from boxnn_numba.data.paths import absolute, location
from boxnn_numba.errors import (
    BoxNNError,
    CertificateFileError,
    DataError,
    InterruptedRunError,
    ModelFileError,
    OptionError,
    OutputError,
)
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.connection import worker_report
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train


@pytest.fixture
def memory() -> Iterator[UPath]:
    """An empty folder of fsspec's file system in memory."""
    folder = UPath("memory://here", use_listings_cache=False)
    yield folder
    if folder.exists():
        folder.fs.rm(folder.path, recursive=True)


def listing(folder: UPath) -> set[str]:
    """Names of what is in a folder."""
    found = folder.fs.find(folder.path)
    return {name[len(folder.path) + 1 :].split("/")[0] for name in found}


def content(folder: UPath) -> dict[str, bytes]:
    return {name: folder.fs.cat_file(name) for name in folder.fs.find(folder.path)}


def flipped(value: bytes) -> bytes:
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]


def one_line(error: pytest.ExceptionInfo[Any]) -> None:
    assert "\n" not in str(error.value)


# --- names ---------------------------------------------------------------------------------


def test_local_names_are_plain_paths(tmp_path: Path) -> None:
    assert location("a/b.zarr") == Path("a/b.zarr")
    for name in (tmp_path, str(tmp_path), f"file://{tmp_path}", f"local://{tmp_path}/"):
        assert location(name) == tmp_path
        assert type(location(name)) is type(tmp_path)
    assert absolute("b.zarr") == str(Path.cwd() / "b.zarr")
    assert absolute("memory://a/b/") == "memory://a/b"
    url = location("memory://a/b")
    assert location(url) is url


def test_unusable_urls(run_boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # Other tests may have imported it.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    failed(run_boxnn("evaluate", "s3://a/b"), 2, "pip install 'boxnn-numba[s3]'")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    failed(run_boxnn("train", "gs://a/b", "--out", "m"), 2, "not installed", "gcsfs")
    failed(run_boxnn("evaluate", "nonsense://a"), 2, "nonsense://a is not a usable URL")
    failed(run_boxnn("data", "ingest", "digits", "--out", "memory://"), 2, "names no new file")
    for words in (
        ("certify", "memory://a/m", "memory://a/d", "--out", "memory://a/c"),
        ("train", "memory://a/d", "--out", "memory://a/m"),
        ("evaluate", "memory://a/c"),
        ("evaluate", "file:///nowhere/c"),
        ("data", "info", "memory://a/d"),
        ("report", "memory://a/c", "--out", "memory://a/r"),
    ):
        failed(run_boxnn(*words), 1)
    failed(run_boxnn("evaluate", "none"), 2, "none")
    assert listing(UPath("memory://a")) == set()


# --- the same bits -------------------------------------------------------------------------

STEPS = (
    "data ingest x.npz --out {0}/d.zarr --codes",
    "data verify {0}/d.zarr",
    "train {0}/d.zarr --preset graded --out {0}/m{1} --boxes 9 --epochs 2 --lr 0.1 --threads 1",
    "certify {0}/m{1} {0}/d.zarr --out {0}/c.zarr",
    "evaluate {0}/c.zarr --radii 0,1,2",
    "predict {0}/m{1} x.npy --out {0}/p.csv",
    "report {0}/c.zarr --out {0}/report",
)


@pytest.mark.parametrize("kind", [".zarr", ".zip"])
def test_every_command_gives_the_same_bits(
    kind: str, run_boxnn: Run, memory: UPath, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    centres = rng.integers(30, 226, (3, 6))
    y = np.arange(300) % 3
    x = np.clip(centres[y] + rng.integers(-40, 41, (300, 6)), 0, 255)
    np.savez("x.npz", x=x.reshape(300, 2, 3), y=y)
    np.save("x.npy", x[:20])
    folders = ["local", f"file://{tmp_path}/url", str(memory)]
    for folder in folders:
        if "memory" not in folder:
            location(folder).mkdir()
        for step in STEPS:
            code, _, errors = run_boxnn(*step.format(folder, kind).split(), "--json")
            assert (code, errors) == (0, ""), step
    first, *others = folders
    for folder in others:
        one, two = (open_dataset(f"{place}/d.zarr") for place in (first, folder))
        assert one.digest == two.digest
        assert_same_model(load_model(f"{first}/m{kind}"), load_model(f"{folder}/m{kind}"))
        one_file, two_file = (open_certificate(f"{place}/c.zarr") for place in (first, folder))
        assert one_file.attributes["digests"] == two_file.attributes["digests"]
        for name in ("p.csv", "report/summary.csv", "report/certified_curves.png"):
            assert (location(folder) / name).read_bytes() == Path(first, name).read_bytes(), name
        assert (location(folder) / "report" / "report.html").is_file()
    assert listing(memory) == {"d.zarr", f"m{kind}", "c.zarr", "p.csv", "report"}


# --- whole or not at all -------------------------------------------------------------------


def test_resumed_runs_are_the_same_bit_for_bit(
    tiny_dataset: Path, memory: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boxnn_numba.data.dataset.CHUNK_BYTES", 12 * 10)
    data = memory / "d.zarr"
    x, y = open_dataset(tiny_dataset).read("train")
    write_dataset(data, name="d", classes=[3, 5, 8], train=(x, y), test=(x, y))
    model, cert = memory / "m.zarr", memory / "c.zarr"
    with pytest.raises(InterruptedRunError, match=r"kept in memory://here/m.zarr.partial"):
        train(data, model, OPTIONS, run=RunOptions(progress=Stopper(2 * 108)))
    assert listing(memory) == {"d.zarr", "m.zarr.partial"}
    with pytest.raises(OptionError, match="an unfinished run is in"):
        train(data, model, OPTIONS)
    train(data, model, OPTIONS, run=RunOptions(resume=True))
    train(data, tmp_path / "m", OPTIONS)
    assert_same_model(load_model(model), load_model(tmp_path / "m"))

    with pytest.raises(InterruptedRunError):
        certify(model, data, cert, run=RunOptions(progress=Stopper(30)))
    with pytest.raises(CertificateFileError, match=r"is unfinished; resume it"):
        open_certificate(memory / "c.zarr.partial")
    rest = Stopper(200)
    certify(model, data, cert, run=RunOptions(resume=True, progress=rest))
    assert 0 < rest.before < 120
    certify(model, data, tmp_path / "c")
    one, two = open_certificate(cert), open_certificate(tmp_path / "c")
    assert one.attributes["digests"] == two.attributes["digests"]
    assert listing(memory) == {"d.zarr", "m.zarr", "c.zarr"}


def test_stopped_while_it_is_published(
    tiny_dataset: Path, memory: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = MemoryFileSystem.copy

    def stop_before_root(self: Any, sources: Any, targets: Any, **options: Any) -> None:
        if targets[0].endswith("m.zarr/zarr.json"):
            raise KeyboardInterrupt
        copy(self, sources, targets, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "copy", stop_before_root)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_dataset, memory / "m.zarr", OPTIONS)
    assert listing(memory) == {"m.zarr", "m.zarr.partial"}
    with pytest.raises(ModelFileError, match="is not a readable model"):
        load_model(memory / "m.zarr")
    with pytest.raises(OptionError, match="already exists"):
        train(tiny_dataset, memory / "m.zarr", OPTIONS)
    train(tiny_dataset, memory / "m.zarr", OPTIONS, run=RunOptions(resume=True))
    train(tiny_dataset, tmp_path / "m", OPTIONS)
    assert_same_model(load_model(memory / "m.zarr"), load_model(tmp_path / "m"))
    assert listing(memory) == {"m.zarr"}


def test_outputs_are_replaced_only_when_told(memory: UPath) -> None:
    for text in ("one", "two"):
        with staged_output(memory / "a", overwrite=text == "two", owned=UPath.is_dir) as partial:
            (partial / text).write_text(text)
    assert set(content(memory)) == {"/here/a/two"}
    with (
        pytest.raises(OptionError, match="already exists; pass `overwrite`"),
        staged_output(memory / "a"),
    ):
        pass
    with pytest.raises(ZeroDivisionError), staged_output(memory / "b") as partial:
        (partial / "x").write_text(str(1 / int("0")))
    with (
        pytest.raises(KeyError),
        staged_output(memory / "a", overwrite=True, owned=UPath.is_dir) as partial,
    ):
        (partial / "x").write_text("x")
        raise KeyError
    assert set(content(memory)) == {"/here/a/two"}
    for options, words in (
        ({}, "already exists"),
        ({"overwrite": True}, "not something that boxnn wrote"),
    ):
        for place in (output_folder, staged_output):
            with pytest.raises(OptionError, match=words), place(str(memory / "a"), **options):
                pass
    assert set(content(memory)) == {"/here/a/two"}
    with output_folder(str(memory / "a"), overwrite=True, owned=UPath.is_dir) as folder:
        assert folder / "b" == memory / "a" / "b"
    assert content(memory) == {}


# --- damage and lost connections -----------------------------------------------------------


def test_damage_is_found(tiny_dataset: Path, memory: UPath) -> None:
    train(tiny_dataset, memory / "m.zarr", OPTIONS)
    model = load_model(memory / "m.zarr")
    save_model(model, memory / "m.zip")
    certify(memory / "m.zarr", tiny_dataset, memory / "c.zarr")
    dataset = open_dataset(tiny_dataset)
    halves = {split: dataset.read(split) for split in dataset.splits}
    write_dataset(memory / "d.zarr", name="d", classes=[3, 5, 8], **halves)
    kept = content(memory)
    readers: dict[str, Any] = {
        "m.zarr": (load_model, ModelFileError),
        "m.zip": (load_model, ModelFileError),
        "c.zarr": (open_certificate, CertificateFileError),
        "d.zarr": (lambda path: [open_dataset(path).read(s) for s in halves], DataError),
    }
    for name, value in kept.items():
        store = name.split("/")[2]
        read, kind = readers[store]
        # Not every file is read, and not every bit of the metadata is guarded.
        guarded = not any(part in name for part in ("/finished/", "train/zarr.json", "test/zarr"))
        for damaged in (None, value[:-3], flipped(value)):
            memory.fs.rm(name)
            if damaged is not None:
                memory.fs.pipe_file(name, damaged)
            changed = damaged is None or not name.endswith("zarr.json")
            if guarded and changed and not name.endswith("/m.zip"):
                with pytest.raises(kind) as error:
                    read(f"{memory}/{store}")
                one_line(error)
            if store == "d.zarr":
                assert verify_dataset(memory / store)
            memory.fs.pipe_file(name, value)
    memory.fs.pipe_file("/here/m.zip", kept["/here/m.zip"][:-30])
    with pytest.raises(ModelFileError, match="is not a readable model"):
        load_model(memory / "m.zip")
    assert verify_dataset(memory / "d.zarr") == []


class BotoCoreError(Exception):
    """Stands for what botocore raises, which is no OSError."""


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A library whose errors are like those of botocore; `setattr` makes a method raise one."""
    module = types.ModuleType("botocore.exceptions")
    module.BotoCoreError = BotoCoreError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "botocore.exceptions", module)
    with monkeypatch.context() as patch:
        yield patch


def unreachable(*arguments: Any, **options: Any) -> Any:
    raise BotoCoreError("Unable to locate credentials\nsecond line")


@pytest.mark.parametrize("method", ["info", "cat_file"])
def test_a_store_that_cannot_be_reached(
    method: str, tiny_dataset: Path, memory: UPath, lost: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, memory / "m.zarr", OPTIONS)
    lost.setattr(MemoryFileSystem, method, unreachable)
    for call in (
        lambda: load_model(memory / "m.zarr"),
        lambda: certify(memory / "m.zarr", tiny_dataset, memory / "c.zarr"),
        lambda: open_dataset(memory / "m.zarr"),
        lambda: verify_dataset(memory / "m.zarr") and open_dataset(memory / "m.zarr"),
    ):
        with pytest.raises(
            BoxNNError, match=r"cannot read memory://here/m.zarr: Unable to locate cr"
        ):
            call()


def test_connections_lost_in_the_middle(
    tiny_dataset: Path, memory: UPath, tmp_path: Path, lost: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(tiny_dataset)
    halves = {split: dataset.read(split) for split in dataset.splits}
    write_dataset(memory / "d.zarr", name="d", classes=[3, 5, 8], **halves)
    train(memory / "d.zarr", memory / "m.zarr", OPTIONS)
    cat_file = MemoryFileSystem.cat_file

    def chunks_unreachable(self: Any, path: str, **options: Any) -> bytes:
        return unreachable() if "/c/" in path else cat_file(self, path, **options)

    with lost.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", chunks_unreachable)
        remote = open_dataset(memory / "d.zarr")
        with pytest.raises(
            DataError, match="cannot read test/x chunk 0 of memory://here/d"
        ) as error:
            remote.read_chunk("test", 0)
        one_line(error)
    with lost.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", unreachable)
        with pytest.raises(
            OutputError, match=r"cannot write memory://here/new: .*check the URL"
        ) as e:
            save_model(load_model(memory / "m.zarr"), memory / "new")
        one_line(e)
    assert listing(memory) == {"d.zarr", "m.zarr"}


def test_read_only_protocols_and_full_stores(
    tiny_dataset: Path, memory: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, memory / "m.zarr", OPTIONS)
    model = load_model(memory / "m.zarr")
    for error, words in (
        (NotImplementedError(), "cannot do that"),
        (PermissionError("Access Denied"), "permission denied"),
        (OSError(28, "No space"), "no space left"),
    ):

        def refuse(*arguments: Any, error: Exception = error, **options: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, "pipe_file", refuse)
            for name in ("n.zarr", "n.zip"):
                with pytest.raises(OutputError, match=words):
                    save_model(model, memory / name)
    assert listing(memory) == {"m.zarr"}


def test_workers_that_do_not_see_a_store(tiny_dataset: Path, lost: pytest.MonkeyPatch) -> None:
    paths = (str(tiny_dataset), f"file://{tiny_dataset}", "memory://nothing/here")
    assert worker_report(paths)["missing"] == ["memory://nothing/here"]
    lost.setattr(MemoryFileSystem, "info", unreachable)
    assert worker_report(paths)["missing"] == ["memory://nothing/here"]


def test_json_results_name_the_url(run_boxnn: Run, memory: UPath) -> None:
    code, out, _ = run_boxnn("data", "ingest", "digits", "--out", memory / "d.zarr", "--json")
    assert code == 0 and json.loads(out)["path"] == "memory://here/d.zarr"
