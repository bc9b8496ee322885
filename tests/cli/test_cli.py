"""The commands as a user types them: every form of the manual."""

from __future__ import annotations

import csv
import ctypes
import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import TRAIN, Run, failed, here

from boxnn_numba import certified_accuracy, load_model
from boxnn_numba.cli.main import COMMANDS
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset


def test_train_certify_evaluate(boxnn: Run) -> None:
    code, out, err = boxnn(*TRAIN, "--preset", "graded", "--seed", 0, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["model"], result["boxes"], result["epochs"]) == ("model.zarr", 6, 2)
    assert 0 <= result["validation"]["accuracy"] <= 1

    words = ("certify", "model.zarr", "tiny.zarr", "--split", "test", "--out", "cert.zarr")
    code, out, err = boxnn(*words, "--json")
    assert (code, err) == (0, "")
    certified = json.loads(out)
    assert (certified["n"], certified["split"]) == (40, "test")

    radii = "0,4,8,12,16,20,24,28,32,36,40"
    words = ("evaluate", "cert.zarr", "--radii", radii, "--convention", "sound", "--json")
    code, out, err = boxnn(*words)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert set(result) >= {
        "median_certified_radius", "certified_accuracy", "accuracy", "n", "convention"
    }  # fmt: skip
    assert list(result["certified_accuracy"]) == radii.split(",")
    assert (result["n"], result["convention"]) == (40, "sound")
    assert result["certified_accuracy"]["0"] == result["accuracy"] == certified["accuracy"]
    assert result["median_certified_radius"] == certified["median_certified_radius"]

    x, y = open_dataset("tiny.zarr").read("test")
    model, file = load_model("model.zarr"), open_certificate("cert.zarr")
    prediction, radius = model.certify(x, certificate="auto")
    np.testing.assert_array_equal(np.array(file.classes)[file.prediction], prediction)
    np.testing.assert_array_equal(file.radius, radius)
    np.testing.assert_array_equal(file.label, y)
    np.testing.assert_array_equal(file.class_distance, model.class_distance(x))
    expected = 100 * certified_accuracy(file.prediction, radius, y, [0, 4, 8])
    found = [result["certified_accuracy"][r] for r in ("0", "4", "8")]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert here() == {"tiny.zarr", "model.zarr", "cert.zarr"}


def test_results_as_text(trained: Run) -> None:
    words = (
        "train",
        "tiny.zarr",
        "--preset",
        "graded",
        "--out",
        "m.zip",
        "--boxes",
        6,
        "--epochs",
        1,
        "--lr",
        0.2,
    )
    code, out, err = trained(*words, "--quiet")
    assert (code, err) == (0, "") and out.startswith("m.zip: 6 boxes, best epoch ")
    words = ("certify", "m.zip", "tiny.zarr", "--split", "train", "--certificate", "margin")
    code, out, err = trained(*words, "--out", "c")
    assert (code, err) == (0, "") and out.startswith("c: 120 samples in ")
    for convention in ("sound", "paper"):
        code, out, err = trained("evaluate", "c", "--radii", "0,1", "--convention", convention)
        assert (code, err) == (0, "") and f"({convention} convention, radii in features)" in out
        assert [line.split()[0] for line in out.splitlines()[-3:]] == ["3", "5", "8"]
    assert trained("evaluate", "c")[0] == 0


def test_predict(trained: Run) -> None:
    x, _ = open_dataset("tiny.zarr").read("test")
    for name, array in (
        ("x.npy", x),
        ("images.npy", x.reshape(40, 3, 4)),
        ("f.npy", x.astype(float)),
    ):
        np.save(name, array)
        words = ("predict", "model.zarr", name, "--out", "predictions.csv", "--overwrite")
        code, out, err = trained(*words)
        assert (code, out, err) == (0, "predictions.csv: 40 rows\n", "")
        with Path("predictions.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        label, radius = load_model("model.zarr").certify(x, certificate="auto")
        assert rows[0] == ["label", "radius"]
        assert rows[1:] == [[str(a), str(b)] for a, b in zip(label, radius, strict=True)]
    failed(trained(*words[:-1]), 2, "predictions.csv already exists; pass --overwrite")
    code, out, _ = trained(*words, "--json")
    assert json.loads(out) == {"predictions": "predictions.csv", "n": 40}


def test_real_features_and_text_labels(run_boxnn: Run) -> None:
    rng = np.random.default_rng(0)
    lines = ["a,b,c,kind"]
    for i in range(90):
        lines.append(",".join([*map(str, rng.normal(3 * (i % 2), 1, 3)), ["x", "y,z"][i % 2]]))
    lines = [line.replace("y,z", '"y,z"') for line in lines]
    Path("table.csv").write_text("\n".join(lines))
    assert run_boxnn("data", "ingest", "table.csv", "--label", "kind", "--out", "t.zarr")[0] == 0
    assert (
        run_boxnn(
            "train", "t.zarr", "--preset", "graded", "--out", "m.zarr", "--boxes", 4, "--epochs", 2
        )[0]
        == 0
    )
    np.save("x.npy", rng.normal(0, 1, (3, 3)))
    assert run_boxnn("predict", "m.zarr", "x.npy", "--out", "p.csv")[0] == 0
    with Path("p.csv").open(newline="") as file:
        assert {row[0] for row in list(csv.reader(file))[1:]} <= {"x", "y,z"}
    assert run_boxnn("certify", "m.zarr", "t.zarr", "--out", "c.zarr")[0] == 0


def test_every_training_option_is_on_the_command_line(boxnn: Run) -> None:
    words = {
        "--preset": "target", "--radius": 2, "--width": 90, "--train-width": 100, "--alpha": 0.05,
        "--initialisation": "random", "--batch": 30, "--optimizer": "sgd", "--momentum": 0.1,
        "--weight-decay": 0.001, "--schedule": "cosine", "--softmin": "logsumexp", "--tau": 2,
        "--objective": "clip", "--beta": 3, "--sharpness": 4, "--relaxation": "graded",
        "--crowd": 5, "--keep": 0.1, "--warmup": 0, "--augment": 0, "--rotation": 4,
        "--scaling": 0.03, "--shear": 0.04, "--shift": 0.2, "--displacement": 0.1,
        "--leak": 0.5, "--validation": 0.2, "--group-size": 3, "--seed": 7, "--threads": 1,
        "--device": "cpu",
    }  # fmt: skip
    flat = [item for pair in words.items() for item in pair]
    code, _, err = boxnn(*TRAIN, *flat)
    assert (code, err) == (0, "")
    training = load_model("model.zarr").training
    for flag, value in words.items():
        name = flag[2:].replace("-", "_")
        if name not in ("preset", "threads", "device"):
            assert training["options"][name] == value
    assert (training["preset"], training["seed"]) == ("target", 7)


def test_validation_zero_prints_valid_json(boxnn: Run) -> None:
    code, out, _ = boxnn(*TRAIN, "--validation", 0, "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert code == 0
    assert json.loads(out, parse_constant=refuse)["validation"]["accuracy"] is None
    code, out, _ = boxnn(*TRAIN, "--validation", 0, "--overwrite")
    assert code == 0 and "nan" not in out.lower()


def test_config_file(boxnn: Run) -> None:
    Path("run.toml").write_text(
        "boxes = 9\nlr = 0.1\njson = true\n[train]\ngroup-size = 2\nepochs = 1\n"
        "out = 'm.zarr'\n[certify]\nsplit = 'train'\nout = 'c.zarr'\n",
        encoding="utf-8-sig",  # as editors of Windows write it
    )
    code, out, err = boxnn(
        "train", "tiny.zarr", "--preset", "graded", "--config", "run.toml", "--boxes", 6
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["model"] == "m.zarr"
    options = load_model("m.zarr").training["options"]
    given = {name: options[name] for name in ("boxes", "lr", "group_size", "epochs")}
    assert given == {"boxes": 6, "lr": 0.1, "group_size": 2, "epochs": 1}
    Path("certify.toml").write_text("[certify]\nsplit = 'train'\nout = 'c.zarr'\n")
    assert boxnn("certify", "m.zarr", "tiny.zarr", "--config", "certify.toml")[0] == 0
    assert len(open_certificate("c.zarr")) == 120


def test_arrays_in_a_config_file(run_boxnn: Run) -> None:
    Path("t.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 7},{i // 30}\n" for i in range(60)))
    assert run_boxnn("data", "ingest", "t.csv", "--label", "y", "--out", "t.zarr")[0] == 0
    words = ("train", "t.zarr", "--effort", 0.1, "--config", "run.toml", "--out")
    Path("run.toml").write_text("[train]\nradii = [1, 2]\n")
    code, out, err = run_boxnn(*words, "m.zarr", "--json")
    assert (code, err) == (0, "") and json.loads(out)["search"]["radii"] == [1, 2]
    _, out, _ = run_boxnn(*words, "v.zarr", "--validation", 0.25)
    assert [line.split(" ")[0] for line in out.splitlines()] == [
        "v.zarr:", "chosen", "validation:",
    ]  # fmt: skip
    for wrong in ("[[1]]", "['1,2']", "[true]"):
        Path("run.toml").write_text(f"[train]\nradii = {wrong}\n")
        failed(run_boxnn(*words, "n.zarr"), 2, "sets radii to")


def test_help_of_everything(run_boxnn: Run) -> None:
    code, out, err = run_boxnn("--help")
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert f"  {command} " in out
        code, text, err = run_boxnn(command, "--help")
        assert (code, err) == (0, "") and text.startswith(f"Usage: boxnn {command}")
    for sub in ("list", "fetch", "ingest", "info", "verify"):
        assert run_boxnn("data", sub, "-h")[1].startswith(f"Usage: boxnn data {sub}")
    assert run_boxnn("--version")[1].startswith("boxnn, version ")


def test_resume_and_overwrite(boxnn: Run) -> None:
    words = (*TRAIN, "--quiet")
    assert boxnn(*words, "--resume")[0] == 0
    failed(boxnn(*words), 2, "model.zarr already exists; pass --overwrite to replace it")
    assert boxnn(*words, "--overwrite")[0] == 0
    certify = ("certify", "model.zarr", "tiny.zarr", "--out", "c.zarr")
    assert boxnn(*certify, "--resume")[0] == 0
    failed(boxnn(*certify), 2, "c.zarr already exists; pass --overwrite to replace it")
    assert boxnn(*certify, "--overwrite")[0] == 0
    assert here() == {"tiny.zarr", "model.zarr", "c.zarr"}


def test_ctrl_c_ends_in_one_line(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("boxnn_numba.training.run.Training.run_epoch", stop)
    failed(boxnn(*TRAIN), 130, "interrupted before any of 2 epochs was done; nothing is kept")
    monkeypatch.setattr("boxnn_numba.pipelines.training.train.training_source", stop)
    code, out, err = boxnn(*TRAIN)
    assert (code, out, err.strip()) == (130, "", "Interrupted.")


def test_ctrl_c_in_a_callback_of_c_is_not_lost(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))

    def work(*arguments: Any) -> None:
        raised()  # as where Numba compiles; Python drops what is raised in it
        raised()
        time.sleep(20)
        raise AssertionError

    monkeypatch.setattr("boxnn_numba.pipelines.training.train.training_source", work)
    before = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    code, out, err = boxnn(*TRAIN)
    assert (code, out, err.strip()) == (130, "", "Interrupted.")
    assert (sys.unraisablehook, signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EOFError(), "a file ends before it is complete"),
        (MemoryError(), "out of memory; close other programs"),
        (RuntimeError("can't start new thread"), "out of memory; close other programs"),
        (OSError("cannot load libx.so"), "cannot load libx.so"),
        (OSError(errno.ENOSPC, "No space left"), "No space left; check where the output goes"),
    ],
)
def test_errors_of_the_system_are_one_line(
    error: BaseException, words: str, boxnn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("boxnn_numba.cli.main._abandon_output", lambda: None)
    monkeypatch.setattr("boxnn_numba.pipelines.training.train.training_source", fail)
    code, out, err = boxnn(*TRAIN)
    # Click begins a new line for an answer that was not given.
    failed((code, out, err.removeprefix("\n")), 1, words)


def test_labels_that_the_model_never_saw(trained: Run) -> None:
    x, y = open_dataset("tiny.zarr").read("test")
    np.savez("a.npz", x=x, y=np.array([3, 5, 9])[y], x_test=x, y_test=np.array([3, 5, 9])[y])
    assert trained("data", "ingest", "a.npz", "--out", "a.zarr")[0] == 0
    assert trained("certify", "model.zarr", "a.zarr", "--out", "c.zarr")[0] == 0
    file = open_certificate("c.zarr")
    np.testing.assert_array_equal(file.label, np.array([0, 1, -1])[y])
    result = json.loads(trained("evaluate", "c.zarr", "--json")[1])
    assert result["n"] == 40 and result["accuracy"] <= 70
    assert result["unlabelled"] == (y == 2).sum() > 0
    note = f"rows that have no label of the model's classes count as wrong: {(y == 2).sum()}"
    assert note in trained("evaluate", "c.zarr")[1].splitlines()
    made = trained("certify", "model.zarr", "a.zarr", "--out", "c.zarr", "--overwrite")[1]
    assert note in made.splitlines()


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys\nfrom boxnn_numba.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numba', 'dask', 'zarr', 'matplotlib', 'sklearn', 'scipy', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n" and "Usage: boxnn" in done.stdout
