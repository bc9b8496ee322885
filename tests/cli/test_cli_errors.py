"""What a user can get wrong: one line that says the fix, the right exit code, nothing left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from support.cli_runs import TRAIN, Run, failed, here

from boxnn_numba.cli.console import as_flags
from boxnn_numba.cli.main import main
from boxnn_numba.errors import OptionError


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("trian",), "No such command 'trian'"),
        (("train",), "Missing argument 'DATA'"),
        (("train", "tiny.zarr"), "Missing option '--out'"),
        (("train", "nothing.zarr", "--out", "m"), "nothing.zarr"),
        ((*TRAIN, "--boxxes", 3), "--boxxes"),
        ((*TRAIN, "--boxes", "many"), "many"),
        ((*TRAIN, "--boxes", 0), "boxes is 0; it must be a whole number from 1 to 2147483647"),
        ((*TRAIN, "--boxes", 2), "--boxes is 2, fewer than the 3 classes"),
        ((*TRAIN, "--width", 0), "width is 0; it must be a whole number from 1 to 255"),
        ((*TRAIN, "--width", 256), "width is 256"),
        ((*TRAIN, "--radius", -1), "radius is -1"),
        ((*TRAIN, "--epochs", 0), "epochs is 0"),
        ((*TRAIN, "--lr", "nan"), "lr is nan"),
        ((*TRAIN, "--validation", 1), "validation is 1.0"),
        ((*TRAIN, "--group-size", 5), "--group-size 5 does not divide the 12 features"),
        (
            (*TRAIN, "--preset", "best"),
            "Invalid value for '--preset': 'best' is not one of 'graded', 'accurate', 'target'",
        ),
        ((*TRAIN, "--preset", "target"), "preset target needs a radius; pass --radius"),
        ((*TRAIN, "--device", "tpu"), "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ((*TRAIN, "--optimizer", "lion"), "'lion' is not one of 'sgd', 'adam'"),
        ((*TRAIN, "--threads", 0), "threads is 0"),
        (
            ("train", "tiny.zarr", "--preset", "graded", "--out", "no/where/m"),
            "does not exist; create it or choose",
        ),
        (
            ("certify", "model.zarr", "tiny.zarr", "--out", "c", "--split", "dev"),
            "'dev' is not one",
        ),
        (
            ("certify", "model.zarr", "tiny.zarr", "--out", "c", "--device", "x"),
            "'x' is not one of",
        ),
        (("certify", "none", "tiny.zarr", "--out", "c"), "none"),
        (("certify", "model.zarr", "none", "--out", "c"), "none"),
        (("evaluate", "none"), "none"),
        (("evaluate", "model.zarr", "--radii", "0,x"), "--radii is '0,x'"),
        (("evaluate", "model.zarr", "--radii", "-1"), "radii are"),
        (("evaluate", "model.zarr", "--radii", ""), "--radii is ''"),
        (("evaluate", "cert.zarr", "--convention", "loose"), "convention"),
        (("predict", "model.zarr", "none.npy", "--out", "p"), "none.npy"),
        (("predict", "none", "x.npy", "--out", "p"), "none"),
        (("certify", "model.zarr", "tiny.zarr", "--out", ""), "--out is empty"),
        (("certify", "model.zarr", "tiny.zarr", "--out", "/"), "--out / names no new file"),
        (("certify", "model.zarr", "tiny.zarr", "--out", "c", "--log", ""), "--log is empty"),
        (("attack", "model.zarr", "tiny.zarr", "--out", ""), "--out is empty"),
        (("attack", "model.zarr", "tiny.zarr", "--out", "a", "--log", ""), "--log is empty"),
        (("train", "tiny.zarr", "--preset", "graded", "--out", ""), "--out is empty"),
        ((*TRAIN[:2], "--out", "new.zarr", "--log", ""), "--log is empty"),
        (("frontier", "tiny.zarr", "--out", ""), "--out is empty"),
        (("predict", "model.zarr", "x.npy", "--out", "p.xlsx"), "--out is p.xlsx; its name must"),
    ],
)
def test_usage_errors(words: tuple[object, ...], text: str, trained: Run) -> None:
    np.save("x.npy", np.zeros((2, 12)))
    assert trained("certify", "model.zarr", "tiny.zarr", "--out", "cert.zarr")[0] == 0
    before = here()
    words = tuple(
        "new.zarr" if word == "model.zarr" and words[0] == "train" else word for word in words
    )
    failed(trained(*words), 2, text)
    assert here() == before


def test_a_file_that_is_called_like_an_option() -> None:
    with click.Context(click.Command("x", params=[click.Option(["--data"])])).scope():
        for text in ("data is not a file", "data is not a readable model file", "data is damaged"):
            assert as_flags(text) == text
        assert as_flags("data is not a file", first=True) == "data is not a file"
        assert (
            as_flags("data is 7; it must be `data`", first=True) == "--data is 7; it must be --data"
        )


def test_failed_runs(trained: Run) -> None:
    before = here()
    failed(trained("train", "model.zarr", "--out", "m"), 1, "is not a dataset (found boxnn-model)")
    certify = ("certify", "model.zarr", "tiny.zarr", "--out", "c")
    failed(trained("certify", "tiny.zarr", *certify[2:]), 1, "is not a model (found boxnn-dataset)")
    failed(trained("certify", "model.zarr", "model.zarr", "--out", "c"), 1, "is not a dataset")
    failed(trained("evaluate", "model.zarr"), 1, "is not a certificate (found boxnn-model)")
    assert here() == before
    shape = Path("model.zarr/lower/c/0/0")
    shape.write_bytes(shape.read_bytes()[:-3])
    failed(trained(*certify), 1, "model.zarr is damaged: lower", "train it again")
    assert here() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((3, 11)), "x has 11 features and the model has 12"),
        (np.zeros(12), "must hold samples as rows"),
        (np.zeros((0, 12)), "x.npy"),
        (np.full((3, 12), 0.5), "codes must be whole numbers 0..255"),
        (np.full((3, 12), 256), "codes must be whole numbers 0..255"),
        (np.full((3, 12), np.nan), "codes must be whole numbers 0..255"),
        (np.full((3, 12), "a"), "codes must be whole numbers 0..255"),
        (b"", "x.npy is not a readable .npy file of numbers"),
        (b"text", "x.npy is not a readable .npy file of numbers"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'", "x.npy is not a readable .npy file of numbers"),
    ],
    ids=str,
)
def test_predict_on_bad_arrays(content: Any, words: str, trained: Run) -> None:
    if isinstance(content, bytes):
        Path("x.npy").write_bytes(content)
    else:
        np.save("x.npy", content)
    before = here()
    failed(trained("predict", "model.zarr", "x.npy", "--out", "p.csv"), 1, words)
    assert here() == before


def test_predict_names_the_row_of_the_file(trained: Run) -> None:
    rows = np.zeros((4100, 12))
    rows[4099, 2] = 0.5
    np.save("x.npy", rows)
    words = "of the rows from 4096 on: x holds 0.5 at row 3, feature 2"
    failed(trained("predict", "model.zarr", "x.npy", "--out", "p.csv"), 1, words)


def test_predict_never_unpickles(trained: Run) -> None:
    np.save("x.npy", np.array([[object()] * 12], dtype=object), allow_pickle=True)
    failed(
        trained("predict", "model.zarr", "x.npy", "--out", "p.csv"), 1, "x.npy is not a readable"
    )
    np.savez("x.npz", x=np.array([[object()] * 12], dtype=object), allow_pickle=True)
    words = "array 'x' of x.npz holds Python objects"
    failed(trained("predict", "model.zarr", "x.npz", "--out", "p.csv"), 1, words)


def test_data_that_the_model_was_not_trained_for(trained: Run) -> None:
    rng = np.random.default_rng(0)
    for name, columns, kind in (("narrow", 11, np.uint8), ("real", 12, np.float32)):
        np.savez(
            f"{name}.npz", x=rng.integers(0, 9, (40, columns)).astype(kind), y=np.arange(40) % 3
        )
        assert trained("data", "ingest", f"{name}.npz", "--out", f"{name}.zarr")[0] == 0
    before = here()
    certify = ("certify", "model.zarr")
    failed(
        trained(*certify, "narrow.zarr", "--out", "c"),
        1,
        "has 11 features and model.zarr was trained on 12",
    )
    failed(
        trained(*certify, "real.zarr", "--out", "c"),
        1,
        "holds real features and model.zarr was trained on codes",
    )
    assert here() == before


def test_images_with_axes_in_another_order(boxnn: Run) -> None:
    x, y = np.zeros((40, 2, 6), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None], "ab" * 20
    for name, samples in (("own", x), ("turned", x.transpose(0, 2, 1))):
        np.savez(f"{name}.npz", x=samples, y=[*y])
        assert boxnn("data", "ingest", f"{name}.npz", "--out", f"{name}.zarr")[0] == 0
        np.save(f"{name}.npy", samples)
    words = ("own.zarr", "--preset", "graded", "--boxes", 4, "--epochs", 1)
    assert boxnn("train", *words, "--out", "model.zarr")[0] == 0
    before = here()
    said = "samples of shape (6, 2) and the model has (2, 6); put the axes in that order"
    for command in (
        ("predict", "model.zarr", "turned.npy", "--out", "p.csv"),
        ("predict", "model.zarr", "turned.npz", "--out", "p.csv"),
        ("explain", "model.zarr", "turned.npy"),
        ("data", "ingest", "turned.npz", "--like", "model.zarr", "--out", "c"),
        ("certify", "model.zarr", "turned.zarr", "--out", "c"),
        ("attack", "model.zarr", "turned.zarr", "--out", "c"),
    ):
        failed(
            boxnn(*command),
            1,
            said.replace("the model", "model.zarr") if "zarr" in command[2] else said,
        )
    assert here() == before
    assert boxnn("predict", "model.zarr", "own.npy", "--out", "p.csv")[0] == 0


@pytest.mark.parametrize("command", ["train", "certify", "predict"])
def test_no_space_left(command: str, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    np.save("x.npy", np.zeros((2, 12)))
    before = here()
    writes, words = {
        "train": ("boxnn_numba.data.checkpoint.save_checkpoint", TRAIN[:4]),
        "certify": (
            "boxnn_numba.pipelines.chunks.write_chunk",
            ("certify", "model.zarr", "tiny.zarr"),
        ),
        "predict": ("csv.writer", ("predict", "model.zarr", "x.npy")),
    }[command]
    monkeypatch.setattr(writes, full)
    failed(trained(*words, "--out", "new", *TRAIN[6:] * (command == "train")), 1, "no space left")
    assert "new" not in here() and here() <= before | {"new.partial"}


@pytest.mark.parametrize("command", ["train", "certify", "predict"])
def test_folder_that_cannot_be_written(command: str, trained: Run) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/self/new")  # not even the superuser writes there
    else:
        Path("closed").mkdir(mode=0o500)
        target = Path("closed/new")
    np.save("x.npy", np.zeros((2, 12)))
    words = {
        "train": TRAIN[:2],
        "certify": ("certify", "model.zarr", "tiny.zarr"),
        "predict": ("predict", "model.zarr", "x.npy"),
    }[command]
    failed(trained(*words, "--out", target), 1, f"cannot write {target}")


def test_divergence(boxnn: Run) -> None:
    words = (*TRAIN, "--lr", 10000, "--width", 1, "--epochs", 20)
    failed(boxnn(*words), 1, "training diverged in epoch", "lower --lr (now 10000)")
    assert "model.zarr" not in here()


def test_debug_shows_the_traceback(boxnn: Run) -> None:
    with pytest.raises(OptionError, match="width is 0"):
        main([*map(str, TRAIN), "--width", "0", "--debug"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("boxxes = 3", "run.toml sets unknown option 'boxxes'"),
        ("[train]\nboxxes = 3", "run.toml sets unknown option 'boxxes'"),
        ("boxes = ", "run.toml is not valid TOML"),
        ("boxes = 'many'", "boxes"),
        ("boxes = 6.5", "boxes"),
        ("boxes = 0", "boxes is 0"),
        ("boxes = [6]", "boxes"),
        ("boxes = true", "sets boxes to True, which it cannot be"),
        ("lr = true", "sets lr to True, which it cannot be"),
        ("overwrite = 3", "sets overwrite to 3, which it cannot be"),
        ("log = 3", "sets log to 3, which it cannot be"),
        ("train = 3", "train"),
        ("[trian]\nboxes = 3", "trian"),
        ("[baseline.nope]\nboxes = 3", "a table for unknown command 'baseline.nope'; known are"),
        ("[baseline.ra.nope]\nseed = 3", "a table for unknown command 'baseline.ra.nope'"),
        ("[baseline.stumps]\nseed = 3", "sets seed in [baseline.stumps], which is no command"),
        ("[baseline]\nstumps = 3", "sets stumps in [baseline], which is no command"),
        ("preset = 'best'", "'--preset': 'best' is not one of"),
    ],
)
def test_bad_config_files(content: str, words: str, boxnn: Run) -> None:
    Path("run.toml").write_text(content)
    failed(
        boxnn(
            "train",
            "tiny.zarr",
            "--out",
            "m",
            "--epochs",
            1,
            "--config",
            "run.toml",
        ),
        2,
        words,
    )
    assert here() == {"tiny.zarr", "run.toml"}


def test_config_file_that_is_missing_or_no_text(boxnn: Run) -> None:
    failed(boxnn(*TRAIN, "--config", "none.toml"), 2, "none.toml")
    Path("run.toml").write_bytes(b"\xff\xfe\x00")
    failed(boxnn(*TRAIN, "--config", "run.toml"), 2, "run.toml is not valid TOML")
