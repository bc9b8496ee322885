"""`boxnn baseline`: what a user types and reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import fake_networks
from support.cli_runs import Run, failed, here

from boxnn_numba.baselines import torch_networks
from boxnn_numba.baselines.partition import runoff_radius, votes_of
from boxnn_numba.baselines.stumps import AdditiveModel
from boxnn_numba.baselines.trees import TreeSubmodels
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.model_store import load_baseline

RA = ("baseline", "ra")
FPA = ("baseline", "fpa")
STUMPS = ("baseline", "stumps")
TRAIN_RA = (*RA, "train", "tiny.zarr", "--out", "ra.zarr", "--retained", 4, "--device", "cpu")
TRAIN_FPA = (*FPA, "train", "tiny.zarr", "--out", "fpa.zip", "--parts", 5, "--device", "cpu")
FEW = ("--samples", 60, "--guess-samples", 20, "--device", "cpu")
CERTIFY_RA = (*RA, "certify", "ra.zarr", "tiny.zarr", "--out", "c.zarr", *FEW)


@pytest.fixture
def fake(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    fake_networks.install(monkeypatch.setattr)
    return boxnn


def test_a_session_of_randomized_ablation(fake: Run) -> None:
    code, out, err = fake(*TRAIN_RA)
    assert (code, err) == (0, "")
    assert out.startswith("ra.zarr: 36 multiply-adds an evaluation, ")
    assert out.endswith("s, 87.5% of single validation samples right\n")
    code, out, err = fake(*CERTIFY_RA, "--limit", 15)
    assert (code, err) == (0, "")
    assert out.startswith("c.zarr: RA, 15 samples in ") and "2,880 multiply-adds a sample" in out
    words = (*RA, "certify", "ra.zarr", "tiny.zarr", "--out", "b.zarr", "--certificate", "b")
    code, out, err = fake(*words, "--votes-from", "c.zarr", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["method"], result["n"], result["note"]) == ("RA^B", 15, None)
    code, out, err = fake(*RA, "evaluate", "b.zarr", "--radii", "0,1")
    assert (code, err) == (0, "") and out.startswith("n 15   accuracy ")
    assert out.splitlines()[1] == f"abstains on {result['abstained']:.2f}%"
    assert fake("evaluate", "b.zarr", "--radii", "0,1")[1] == out
    code, out, err = fake("report", "c.zarr", "b.zarr", "--out", "r")
    assert (code, err) == (0, "")
    assert "\nRA_4: accuracy" in out and "\nRA_4^B: accuracy" in out
    assert here() == {"tiny.zarr", "ra.zarr", "c.zarr", "b.zarr", "r"}


def test_a_session_of_feature_partition(fake: Run) -> None:
    code, out, err = fake(*TRAIN_FPA, "--partition", "random", "--seed", 3, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["parts"] == 5 and result["seed"] == 3 and result["partition"] == "random"
    words = (*FPA, "certify", "fpa.zip", "tiny.zarr", "--device", "cpu")
    for letter in "ab":
        code, out, err = fake(*words, "--out", letter, "--certificate", letter, "--split", "train")
        assert (code, err) == (0, "")
        assert out.startswith(f"{letter}: FPA^{letter.upper()}, 120 samples in ")
    code, out, err = fake(*FPA, "evaluate", "a", "--json")
    assert (code, err) == (0, "") and json.loads(out)["abstained"] == 0


def test_a_session_of_stumps_and_trees_without_torch(
    boxnn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_networks, "load_torch", lambda: pytest.fail("torch is not needed"))
    words = ("tiny.zarr", "--out", "s.zip", "--rounds", 20, "--seed", 1)
    code, out, err = boxnn(*STUMPS, "train", *words)
    assert (code, err) == (0, "")
    assert out.startswith("s.zip: 20 rounds, clip ") and "36 multiply-adds an evaluation" in out
    code, out, err = boxnn(*STUMPS, "certify", "s.zip", "tiny.zarr", "--out", "s.cert")
    assert (code, err) == (0, "") and out.startswith("s.cert: stumps, 40 samples in ")
    model, (x, _) = load_baseline("s.zip"), open_dataset("tiny.zarr").read("test")
    stored = AdditiveModel.from_arrays(model.weights, model.settings["base"])
    prediction, radius, _ = open_certificate("s.cert").outcome()
    for found, expected in zip((prediction, radius), stored.certify(x), strict=True):
        assert np.array_equal(found, expected)
    words = ("tiny.zarr", "--out", "f.zarr", "--base", "trees", "--trees", 4, "--json")
    code, out, err = boxnn(*FPA, "train", *words)
    assert (code, err) == (0, "")
    assert json.loads(out)["parts"] in (3, 5, 7, 11, 12)
    words = ("certify", "f.zarr", "tiny.zarr", "--out", "f.cert", "--certificate", "b")
    assert boxnn(*FPA, *words)[0] == 0
    model = load_baseline("f.zarr")
    scores = TreeSubmodels(model.weights, model.settings["base"]).scores(x)
    prediction, radius, _ = open_certificate("f.cert").outcome()
    assert np.array_equal(radius, runoff_radius(votes_of(scores), scores)[1])
    code, out, err = boxnn("report", "s.cert", "f.cert", "--out", "r")
    assert (code, err) == (0, "") and out.startswith("Best of 2 runs is “s (exact)”: 100.0% right")
    assert "\ns (exact): accuracy" in out
    assert f"\nFPA_{model.settings['parts']}^B: accuracy" in out
    assert boxnn(*STUMPS, "evaluate", "s.cert")[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((*STUMPS, "train", "tiny.zarr", "--out", "m", "--clip", 2), 2, "clip is 2.0"),
        ((*STUMPS, "train", "tiny.zarr", "--out", "m", "--rounds", 0), 2, "rounds is 0"),
        ((*FPA, "train", "tiny.zarr", "--out", "m", "--base", "trees", "--epochs", 2), 2,
         "--epochs is for another defence or base; leave it out"),
        ((*FPA, "train", "tiny.zarr", "--out", "m", "--parts", 3, "--trees", 2), 2,
         "--trees is for another defence or base"),
        ((*FPA, "train", "tiny.zarr", "--out", "m", "--base", "trees", "--partition", "patch"), 2,
         "--parts is missing; pass how many patches"),
        ((*FPA, "train", "tiny.zarr", "--out", "m", "--base", "trees", "--parts", 13), 2,
         "parts is 13"),
    ],
)  # fmt: skip
def test_errors_of_stumps_and_trees(
    words: tuple[object, ...], code: int, message: str, boxnn: Run
) -> None:
    failed(boxnn(*words), code, message)
    assert here() == {"tiny.zarr"}


def test_one_line_where_every_sample_abstains(fake: Run) -> None:
    assert fake(*TRAIN_RA)[0] == 0
    code, out, err = fake(*CERTIFY_RA, "--samples", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 2 and "abstains on 100.00%" in lines[0]
    assert lines[1].startswith("every sample abstains at k = 4 and alpha = 0.05: even a unanimous")


def test_a_file_of_options(fake: Run) -> None:
    Path("run.toml").write_text(
        "[baseline.ra.train]\nretained = 3\nseed = 8\n"
        "[baseline.ra.certify]\nsamples = 50\nguess-samples = 10\nlimit = 4\n"
        "[train]\nepochs = 3\n"
    )
    words = (*RA, "train", "tiny.zarr", "--out", "ra.zarr", "--device", "cpu")
    code, out, err = fake(*words, "--config", "run.toml", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["retained"] == 3 and json.loads(out)["seed"] == 8
    words = (*RA, "certify", "ra.zarr", "tiny.zarr", "--out", "c", "--device", "cpu")
    assert fake(*words, "--config", "run.toml", "--samples", 40)[0] == 0
    found = open_certificate("c").attributes
    assert (found["samples"], found["guess_samples"], found["limit"]) == (40, 10, 4)
    Path("run.toml").write_text("[baseline]\nra = 3\n")
    failed(fake(*words, "--config", "run.toml", "--overwrite", *FEW), 2, "sets ra in [baseline]")


def test_what_is_there_is_not_replaced(fake: Run) -> None:
    assert fake(*TRAIN_RA)[0] == 0
    failed(fake(*TRAIN_RA), 2, "ra.zarr already exists; pass --overwrite")
    assert fake(*TRAIN_RA, "--overwrite")[0] == 0
    assert fake(*CERTIFY_RA)[0] == 0
    failed(fake(*CERTIFY_RA), 2, "c.zarr already exists; pass --overwrite")
    out = (*RA, "certify", "ra.zarr", "tiny.zarr", "--out", "ra.zarr", *FEW, "--overwrite")
    failed(fake(*out), 2, "--out ra.zarr would delete the input", "ra.zarr; choose another")
    again = (*RA, "certify", "ra.zarr", "tiny.zarr", "--out", "c.zarr", "--overwrite")
    failed(fake(*again, "--votes-from", "c.zarr", "--device", "cpu"), 2, "would delete the input")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((*RA, "train", "tiny.zarr", "--out", "m"), 2, "--retained"),
        ((*FPA, "train", "tiny.zarr", "--out", "m"), 2, "--parts"),
        ((*RA, "train", "no.zarr", "--out", "m", "--retained", 2), 2, "no.zarr"),
        ((*TRAIN_RA, "--resume"), 2, "ra.zarr already exists"),
        ((*TRAIN_RA, "--out", "m", "--base", "cnn"), 2, "or mlp as --base"),
        ((*TRAIN_RA, "--out", "m", "--seed", -1), 2, "seed is -1"),
        ((*TRAIN_RA, "--out", "m", "--threads", 0), 2, "threads is 0"),
        ((*TRAIN_RA[:-4], "--retained", 99, "--device", "cpu"), 2, "retained is 99"),
        ((*TRAIN_FPA, "--partition", "patch", "--parts", 7), 0, ""),
        ((*TRAIN_FPA, "--partition", "x"), 2, "'x' is not one of 'strided', 'strided-columns'"),
        ((*FPA, "certify", "tiny.zarr", "tiny.zarr", "--out", "c", "--device", "cpu"), 1,
         "tiny.zarr is not a baseline (found boxnn-dataset)"),
        (("certify", "ra.zarr", "tiny.zarr", "--out", "c"), 1, "ra.zarr is not a model"),
        ((*FPA, "certify", "ra.zarr", "tiny.zarr", "--out", "c"), 2, "was trained for ra"),
        ((*CERTIFY_RA, "--alpha", 2), 2, "alpha is 2.0"),
        ((*CERTIFY_RA, "--limit", 0), 2, "limit is 0"),
        ((*CERTIFY_RA, "--workers", 0), 2, "workers is 0"),
        ((*CERTIFY_RA, "--votes-from", "gone"), 2, "gone"),
        ((*CERTIFY_RA, "--certificate", "z"), 2, "'z' is not one of 'a', 'b'"),
        ((*RA, "evaluate", "ra.zarr"), 1, "ra.zarr is not a certificate"),
    ],
)  # fmt: skip
def test_errors_are_one_line(words: tuple[object, ...], code: int, message: str, fake: Run) -> None:
    assert fake(*TRAIN_RA)[0] == 0
    result = fake(*words)
    if code:
        failed(result, code, message)
        assert here() == {"tiny.zarr", "ra.zarr"}
    else:
        assert result[0] == 0


@pytest.mark.torch
def test_real_networks(boxnn: Run) -> None:
    pytest.importorskip("torch")
    code, out, err = boxnn(*TRAIN_RA, "--epochs", 6, "--threads", 1, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["validation_accuracy"] > 50
    code, out, err = boxnn(*CERTIFY_RA, "--threads", 1)
    assert (code, err) == (0, "") and out.startswith("c.zarr: RA, 40 samples")
    assert boxnn(*TRAIN_FPA, "--epochs", 6, "--threads", 1)[0] == 0
    words = (*FPA, "certify", "fpa.zip", "tiny.zarr", "--threads", 1, "--device", "auto")
    for letter in "ab":
        code, out, err = boxnn(*words, "--out", letter, "--certificate", letter, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["accuracy"] > 60
