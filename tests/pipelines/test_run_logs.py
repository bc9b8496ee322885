"""Logs of training, certification and attacks: what they say, and how resuming goes on."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.interruptions import OPTIONS, SLOW_BOXNN, Stopper, kill, wait_for

from boxnn_numba import load_model
from boxnn_numba.cli.main import main
from boxnn_numba.data import dataset as store
from boxnn_numba.data.run_log import read_log
from boxnn_numba.errors import DivergenceError, InterruptedRunError, OptionError
from boxnn_numba.pipelines.attack.attack import attack
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train

#: Two sets of boxes, five epochs of 108 rows each.
PAIR = replace(OPTIONS, members=2)


def timeless(path: Path) -> list[dict[str, Any]]:
    """The lines of a log without what differs from run to run."""
    measured = dict.fromkeys(("seconds", "samples_per_second"))
    return [{**line, **measured} for line in read_log(path).lines]


def test_training_logs_every_epoch_as_the_model_records_it(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    train(tiny_dataset, tmp_path / "m", PAIR, preset="p", run=RunOptions(log=tmp_path / "l"))
    about, lines = read_log(tmp_path / "l")
    dataset = store.open_dataset(tiny_dataset)
    assert about == {
        "format": "boxnn-log", "version": 1, "package": about["package"], "result": "boxnn-model",
        "dataset": "tiny", "dataset_digest": dataset.digest, "rows": 108, "preset": "p",
        "seed": PAIR.seed, "options": PAIR.as_dict(),
    }  # fmt: skip
    places = [(line["member"], line["epoch"]) for line in lines]
    assert places == [(member, epoch) for member in (0, 1) for epoch in range(1, 6)]
    for line in lines:
        assert line["samples_per_second"] == 108 / line["seconds"]
    history = [
        {k: v for k, v in line.items() if k not in ("member", "samples_per_second")}
        for line in lines
    ]
    assert history[:5] == load_model(tmp_path / "m").training["history"]
    assert {line["objective"] for line in history[5:]}.isdisjoint(
        x["objective"] for x in history[:5]
    )


def test_a_resumed_log_has_every_epoch_once(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path / "whole", PAIR, run=RunOptions(log=tmp_path / "w"))
    path = tmp_path / "l"
    how = RunOptions(resume=True, log=path)
    # In the third epoch, then in the second of the other set of boxes.
    for after, epochs in ((2 * 108 + 30, 2), (4 * 108, 6)):
        with pytest.raises(InterruptedRunError):
            train(tiny_dataset, tmp_path / "m", PAIR, run=replace(how, progress=Stopper(after)))
        assert timeless(path) == timeless(tmp_path / "w")[:epochs]
        # As if it was killed while it wrote, with a line that its checkpoint knows nothing of.
        ahead = path.read_text().splitlines()[-1].replace('"epoch": ', '"epoch": 1')
        path.write_text(f'{path.read_text()}{ahead}\n{{"member": 0, "ep')
    train(tiny_dataset, tmp_path / "m", PAIR, run=how)
    assert timeless(path) == timeless(tmp_path / "w")
    assert read_log(path).about == read_log(tmp_path / "w").about


def test_a_log_that_was_lost_comes_back_from_the_checkpoint(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    how = RunOptions(resume=True, log=tmp_path / "l")
    with pytest.raises(InterruptedRunError):
        train(tiny_dataset, tmp_path / "m", PAIR, run=replace(how, progress=Stopper(300)))
    before = read_log(tmp_path / "l").lines
    (tmp_path / "l").unlink()
    with pytest.raises(InterruptedRunError):
        train(tiny_dataset, tmp_path / "m", PAIR, run=replace(how, progress=Stopper(0)))
    assert read_log(tmp_path / "l").lines == before != []


def test_an_epoch_that_was_stopped_counts_all_its_seconds(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boxnn_numba.training.cpu_trainer._MOST_STEPS", 1)
    how = RunOptions(resume=True, log=tmp_path / "l")
    with pytest.raises(InterruptedRunError):
        train(tiny_dataset, tmp_path / "m", OPTIONS, checkpoint_seconds=0.0,
              run=replace(how, progress=Stopper(60)))  # fmt: skip
    from boxnn_numba.data.checkpoint import load_checkpoint, save_checkpoint

    path = tmp_path / "m.partial" / "checkpoint.npz"
    arrays, values = load_checkpoint(path)
    assert values["state"]["step"] > 0 and values["state"]["seconds"] > 0
    values["state"]["seconds"] = 1000.0
    save_checkpoint(path, arrays, values)
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=how)
    seconds = [line["seconds"] for line in read_log(tmp_path / "l").lines]
    assert 1000 < seconds[0] < 1100 and max(seconds[1:]) < 100


def test_a_log_of_another_run_stops_nothing_half_way(tiny_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "l"
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(log=path))
    before = path.read_bytes()
    with pytest.raises(OptionError, match="l is the log of a run already"):
        train(tiny_dataset, tmp_path / "n", OPTIONS, run=RunOptions(log=path))
    with pytest.raises(OptionError, match="its seed is 0, not 1"):
        train(tiny_dataset, tmp_path / "n", replace(OPTIONS, seed=1),
              run=RunOptions(log=path, resume=True))  # fmt: skip
    with pytest.raises(OptionError, match="m already exists"):
        train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(log=path))
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"tiny.zarr", "m", "l"}
    with pytest.raises(DivergenceError):
        train(tiny_dataset, tmp_path / "m", replace(OPTIONS, lr=1e4),
              run=RunOptions(log=path, overwrite=True))  # fmt: skip
    assert read_log(path).about["options"]["lr"] == 1e4


def test_kill_9_while_training_with_a_log(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ["train", tiny_dataset, "--out", tmp_path / "m", "--epochs", 30, "--boxes", 6]
    words += ["--lr", 0.1, "--batch", 20, "--preset", "graded", "--log", tmp_path / "l", "--quiet"]
    process = subprocess.Popen([*SLOW_BOXNN, *map(str, words)])
    log = tmp_path / "l"
    wait_for(lambda: log.exists() and len(log.read_bytes().splitlines()) > 3, process)
    kill(process)
    assert 0 < len(read_log(log).lines) < 30
    main([*map(str, words), "--resume"])
    assert [line["epoch"] for line in read_log(log).lines] == list(range(1, 31))


def test_certification_and_attacks_log_their_chunks(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = store.open_dataset(tiny_dataset).read("test")
    monkeypatch.setattr(store, "CHUNK_BYTES", 4 * 12)
    data = tmp_path / "chunks.zarr"
    store.write_dataset(data, name="c", classes=[3, 5, 8], train=(x, y), test=(x, y))
    train(tiny_dataset, tmp_path / "m", OPTIONS)
    how = RunOptions(log=tmp_path / "c.jsonl", resume=True)
    with pytest.raises(InterruptedRunError):
        certify(tmp_path / "m", data, tmp_path / "c", run=replace(how, progress=Stopper(13)))
    first = read_log(tmp_path / "c.jsonl").lines
    certify(tmp_path / "m", data, tmp_path / "c", run=how)
    about, lines = read_log(tmp_path / "c.jsonl")
    assert (about["result"], about["split"], about["rows"]) == ("boxnn-certificate", "test", 40)
    assert lines[: len(first)] == first and len(first) in (3, 4)
    chunks = [line["chunk"] for line in lines]
    assert chunks == sorted(set(chunks)) and len(chunks) >= 9
    assert all(line["rows"] == 4 and line["samples_per_second"] > 0 for line in lines)
    assert all(line["kernels"] > 0 and line["transfer"] > 0 for line in lines)
    attack(tmp_path / "m", data, tmp_path / "a", limit=8, run=RunOptions(log=tmp_path / "a.jsonl"))
    about, lines = read_log(tmp_path / "a.jsonl")
    entries = {*tmp_path.iterdir()}
    with pytest.raises(OptionError, match="is the log of a run already"):
        certify(tmp_path / "m", data, tmp_path / "n", run=RunOptions(log=tmp_path / "a.jsonl"))
    assert {*tmp_path.iterdir()} == entries
    assert about["result"] == "boxnn-attack" and sum(line["rows"] for line in lines) == 8
