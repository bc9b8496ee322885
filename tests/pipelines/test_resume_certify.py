"""Certification that is stopped, killed or fails: resuming repeats nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.interruptions import OPTIONS, SLOW_BOXNN, Stopper, full_disk, kill, stop_now, wait_for
from zarr.storage import LocalStore

from boxnn_numba.data import dataset as store
from boxnn_numba.data.atomic import partial_path
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.errors import CertificateFileError, InterruptedRunError, OptionError, OutputError
from boxnn_numba.pipelines import chunks
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions


@pytest.fixture
def many_chunks(tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny dataset with 80 test chunks of 4 rows."""
    x, y = store.open_dataset(tiny_dataset).read("train")
    monkeypatch.setattr(store, "CHUNK_BYTES", 4 * 12)
    rows = np.random.default_rng(0).integers(0, 120, 320)
    path = tmp_path / "chunks.zarr"
    store.write_dataset(path, name="c", classes=[3, 5, 8], train=(x, y), test=(x[rows], y[rows]))
    assert len(store.open_dataset(path).chunks("test")) == 80
    train(tiny_dataset, tmp_path / "model", OPTIONS)
    return path


def assert_same_certificates(one: CertificateFile, two: CertificateFile) -> None:
    for name in ("prediction", "radius", "label", "class_distance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    measured = dict.fromkeys(("seconds", "seconds_per_sample", "digest"))
    kept = [{**file.attributes, **measured} for file in (one, two)]
    assert kept[0] == kept[1]


def count_reads(patch: pytest.MonkeyPatch) -> list[int]:
    """Record which chunks are read from now on."""
    read, found = store.Dataset.read_chunk, []

    def recorded(self: store.Dataset, split: str, index: int) -> Any:
        found.append(index)
        return read(self, split, index)

    patch.setattr(store.Dataset, "read_chunk", recorded)
    return found


def test_resumed_certification_repeats_nothing(
    many_chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(tmp_path / "model", many_chunks, tmp_path / "whole")
    words = r"interrupted; 31 of 80 chunks are kept in .*c\.partial, continue with .resume."
    with pytest.raises(InterruptedRunError, match=words):
        certify(
            tmp_path / "model", many_chunks, tmp_path / "c", run=RunOptions(progress=Stopper(120))
        )
    assert not (tmp_path / "c").exists()
    with pytest.raises(OptionError, match="pass `resume` to continue it or `overwrite`"):
        certify(tmp_path / "model", many_chunks, tmp_path / "c")
    with pytest.raises(CertificateFileError, match="is unfinished; resume it with"):
        open_certificate(tmp_path / "c.partial")
    reads = count_reads(monkeypatch)
    certify(tmp_path / "model", many_chunks, tmp_path / "c", run=RunOptions(resume=True))
    assert reads == list(range(31, 80))
    assert_same_certificates(open_certificate(tmp_path / "c"), open_certificate(tmp_path / "whole"))
    assert not partial_path(tmp_path / "c").exists()


def test_resumed_certification_replaces_what_it_was_to(
    many_chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "model", many_chunks, tmp_path / "c"
    certify(*files, certificate="margin")
    with pytest.raises(InterruptedRunError, match="31 of 80 chunks are kept"):
        certify(
            *files, certificate="pairwise", run=RunOptions(overwrite=True, progress=Stopper(120))
        )
    assert open_certificate(tmp_path / "c").attributes["certificate"] == "margin"
    reads = count_reads(monkeypatch)
    certify(*files, certificate="pairwise", run=RunOptions(resume=True))
    assert reads == list(range(31, 80))
    assert open_certificate(tmp_path / "c").attributes["certificate"] == "pairwise"
    assert not partial_path(tmp_path / "c").exists()


def test_kill_9_while_certifying(
    many_chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify(tmp_path / "model", many_chunks, tmp_path / "whole")
    words = ["certify", tmp_path / "model", many_chunks, "--out", tmp_path / "c"]
    finished = tmp_path / "c.partial" / "finished" / "c"
    process = subprocess.Popen([*SLOW_BOXNN, *map(str, words)])
    wait_for(lambda: finished.is_dir() and len(list(finished.iterdir())) > 5, process)
    kill(process)
    assert not (tmp_path / "c").exists()
    kept = {int(path.name) for path in finished.iterdir() if path.name.isdigit()}
    assert 5 < len(kept) < 80
    reads = count_reads(monkeypatch)
    certify(tmp_path / "model", many_chunks, tmp_path / "c", run=RunOptions(resume=True))
    assert reads == [index for index in range(80) if index not in kept]
    assert_same_certificates(open_certificate(tmp_path / "c"), open_certificate(tmp_path / "whole"))


def test_a_run_that_lost_its_place_writes_nothing(
    many_chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TrainingOptions(**{**OPTIONS.as_dict(), "seed": 9})
    train(many_chunks, tmp_path / "other", other)
    certify(tmp_path / "other", many_chunks, tmp_path / "whole")
    real, calls = chunks.write_chunk, []

    def overtaken(*arguments: Any) -> None:
        calls.append(None)
        if len(calls) == 10:  # this run hung, and its lock expired
            run = RunOptions(overwrite=True, no_lock=True, progress=Stopper(200))
            with pytest.raises(InterruptedRunError):
                certify(tmp_path / "other", many_chunks, tmp_path / "c", run=run)
        real(*arguments)

    monkeypatch.setattr(chunks, "write_chunk", overtaken)
    with pytest.raises(OutputError, match="another run has taken its place"):
        certify(tmp_path / "model", many_chunks, tmp_path / "c")
    certify(tmp_path / "other", many_chunks, tmp_path / "c", run=RunOptions(resume=True))
    assert_same_certificates(open_certificate(tmp_path / "c"), open_certificate(tmp_path / "whole"))


def test_another_model_cannot_resume(many_chunks: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        certify(
            tmp_path / "model", many_chunks, tmp_path / "c", run=RunOptions(progress=Stopper(9))
        )
    other = TrainingOptions(**{**OPTIONS.as_dict(), "seed": 9})
    train(many_chunks, tmp_path / "model", other, run=RunOptions(overwrite=True))
    with pytest.raises(
        CertificateFileError, match="run with another model_digest, training; resume"
    ):
        certify(tmp_path / "model", many_chunks, tmp_path / "c", run=RunOptions(resume=True))
    certify(tmp_path / "model", many_chunks, tmp_path / "c", run=RunOptions(overwrite=True))


@pytest.mark.parametrize("writes", range(12))
def test_certification_killed_at_any_of_its_first_writes(
    writes: int, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, tmp_path / "model", OPTIONS)
    put, done = LocalStore.set, [0]

    async def stopping(self: LocalStore, *arguments: Any, **options: Any) -> None:
        if done[0] == writes:
            raise OSError(5, "as good as killed")
        done[0] += 1
        await put(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", stopping)
        with pytest.raises(OutputError, match="cannot write"):
            certify(tmp_path / "model", tiny_dataset, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    certify(tmp_path / "model", tiny_dataset, tmp_path / "c", run=RunOptions(resume=True))
    assert len(open_certificate(tmp_path / "c")) == 40


def test_stopped_just_before_the_certificates_get_their_name(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, tmp_path / "model", OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr("boxnn_numba.data.atomic.replace", stop_now)
        with pytest.raises(KeyboardInterrupt):
            certify(tmp_path / "model", tiny_dataset, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    certify(tmp_path / "model", tiny_dataset, tmp_path / "c", run=RunOptions(resume=True))
    assert len(open_certificate(tmp_path / "c")) == 40


def test_a_full_disk_while_certifying(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, tmp_path / "model", OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr("boxnn_numba.pipelines.chunks.write_chunk", full_disk)
        with pytest.raises(
            OutputError,
            match=r"no space left while writing chunk 0 of .*c.partial; free some space",
        ):
            certify(tmp_path / "model", tiny_dataset, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    certify(tmp_path / "model", tiny_dataset, tmp_path / "c", run=RunOptions(resume=True))
