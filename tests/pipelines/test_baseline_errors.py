"""Baselines that cannot be trained or certified as asked: one line, and nothing is left behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from support import fake_networks

from boxnn_numba.baselines.scikit_classifiers import ScikitSubmodels
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.errors import BoxNNError, DataError, InputError, OptionError
from boxnn_numba.pipelines.certification.baselines import certify_baseline
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.baselines import train_baseline

SAMPLING: dict[str, Any] = {"samples": 60, "guess_samples": 20}


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_networks.install(monkeypatch.setattr)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "ra", "retained": 13}, "retained is 13; it must be a whole number from 1 to"),
        ({"method": "ra", "retained": 0}, "retained is 0"),
        ({"method": "ra"}, "`retained` is missing"),
        ({"method": "ra", "retained": 2, "parts": 2}, "`parts` is for another defence"),
        ({"method": "ra", "retained": 2, "base": "tree"}, "unknown base 'tree'; choose one of cnn"),
        ({"method": "ra", "retained": 2, "epochs": 0}, "epochs is 0"),
        ({"method": "ra", "retained": 2, "run": RunOptions(device="tpu")}, "unknown device 'tpu'"),
        ({"method": "ra", "retained": 2, "network": "small"}, "`network` is of the base cnn"),
        ({"method": "ra", "retained": 2, "group_size": 5}, "`group_size` 5 does not divide"),
        ({"method": "fpa", "parts": 2, "network": "small"}, "`network` is for another defence"),
        ({"method": "fpa", "parts": 2, "precision": "bfloat16"}, "`precision` is for another"),
        ({"method": "ra", "retained": 2, "precision": "half"}, "unknown precision 'half'"),
        ({"method": "fpa", "parts": 13}, "parts is 13; it must be a whole number from 1 to 12"),
        ({"method": "fpa", "parts": 3, "partition": "cut"}, "unknown partition 'cut'"),
        ({"method": "fpa", "parts": 3, "base": "cnn"}, "unknown base 'cnn'"),
        ({"method": "fpa", "parts": 3, "retained": 1}, "`retained` is for another defence"),
        ({"method": "svm"}, "unknown method 'svm'"),
    ],
)
def test_bad_training_options(
    options: dict[str, Any], words: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(OptionError, match=words.replace("(", r"\(")) as caught:
        train_baseline(tiny_dataset, tmp_path / "m", **options)
    assert "\n" not in str(caught.value) and set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"certificate": "c"}, "unknown certificate 'c'; choose one of a, b"),
        ({"method": "fpa"}, "was trained for ra; certify it with that method"),
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"limit": 41}, "limit is 41; it must be a whole number from 1 to 40"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": 2**31}, "samples is 2147483648; it must be .* to 2147483647"),
        ({"guess_samples": -1}, "guess_samples is -1"),
        ({"alpha": 1.0}, "alpha is 1.0; it must be between 0 and 1"),
        ({"seed": -1}, "seed is -1"),
        ({"run": RunOptions(threads=0)}, "threads is 0"),
        ({"run": RunOptions(device="tpu")}, "unknown device 'tpu'"),
    ],
)
def test_bad_certification_options(
    options: dict[str, Any], words: str, ra: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(OptionError, match=words) as caught:
        certify_baseline(
            ra, tiny_dataset, tmp_path / "c", **{"certificate": "a", **SAMPLING, **options}
        )
    assert "\n" not in str(caught.value) and set(tmp_path.iterdir()) == before


def test_votes_that_do_not_fit(ra: Path, fpa: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    certify_baseline(fpa, tiny_dataset, tmp_path / "f", certificate="a")
    certify_baseline(ra, tiny_dataset, tmp_path / "r", certificate="a", split="train", **SAMPLING)
    for file, words in (
        ("f", r"f is of FPA\^A, which keeps no sampled votes"),
        ("r", "holds the votes of another model, data set or split"),
    ):
        with pytest.raises(OptionError, match=words):
            certify_baseline(
                ra, tiny_dataset, tmp_path / "c", certificate="b", votes_from=tmp_path / file
            )


def test_votes_rest_on_other_options(ra: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    votes, chosen = tmp_path / "v", {**SAMPLING, "limit": 9, "seed": 4}
    certify_baseline(ra, tiny_dataset, votes, certificate="a", **chosen)
    again = {"certificate": "b", "votes_from": votes, **chosen}
    for name, value, words in (
        ("limit", 8, "limit is 8 and the votes in .*v have 9; leave it out"),
        ("guess_samples", 21, "guess_samples is 21 and the votes in .*v have 20"),
        ("seed", 5, "seed is 5"),
    ):
        with pytest.raises(OptionError, match=words):
            certify_baseline(ra, tiny_dataset, tmp_path / "c", **{**again, name: value})
    certify_baseline(ra, tiny_dataset, tmp_path / "c", **again)


def test_data_that_do_not_fit(ra: Path, tmp_path: Path) -> None:
    x, y = np.zeros((6, 5), np.uint8), np.arange(6) % 2
    write_dataset(tmp_path / "d", name="d", classes=[3, 5], train=(x, y), test=(x, y))
    with pytest.raises(DataError, match=r"has 5 features and .*ra was trained on 12"):
        certify_baseline(ra, tmp_path / "d", tmp_path / "c", certificate="a")
    write_dataset(tmp_path / "e", name="e", classes=[3, 5, 8], train=(x, y), test=(x[:0], y[:0]))
    with pytest.raises(DataError, match="e has no training sample of class 8; ingest it again"):
        train_baseline(tmp_path / "e", tmp_path / "m", method="ra", retained=2)
    write_dataset(tmp_path / "f", name="f", classes=[3], train=(x, 0 * y), test=(x, y))
    with pytest.raises(DataError, match=r"needs training samples of at least two classes"):
        train_baseline(tmp_path / "f", tmp_path / "m", method="fpa", parts=2)
    x = np.zeros((6, 12), np.uint8)
    write_dataset(tmp_path / "g", name="g", classes=list("abcd"), train=(x, y), test=(x, y))
    with pytest.raises(
        DataError, match=r"g has classes 'a', 'b', 'c', \.\.\. and .* knows 3, 5, 8;"
    ):
        certify_baseline(ra, tmp_path / "g", tmp_path / "c", certificate="a", **SAMPLING)
    train_baseline(tmp_path / "d", tmp_path / "small", method="fpa", parts=2)
    with pytest.raises(DataError, match=r"the test split of .*e is empty"):
        certify_baseline(tmp_path / "small", tmp_path / "e", tmp_path / "c", certificate="a")


def test_without_torch(
    ra: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)
    before = set(tmp_path.iterdir())
    for work in (
        lambda: train_baseline(tiny_dataset, tmp_path / "m", method="ra", retained=2),
        lambda: certify_baseline(
            ra, tiny_dataset, tmp_path / "c", certificate="a", run=RunOptions(device="auto")
        ),
    ):
        with pytest.raises(BoxNNError, match=r"needs torch; pip install 'boxnn-numba\[baselines\]"):
            work()
    assert set(tmp_path.iterdir()) == before


def test_torch_that_does_not_load(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('no libtorch.so')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(BoxNNError, match=r"does not load \(no libtorch.so\); install it again"):
        train_baseline(tiny_dataset, tmp_path / "m", method="ra", retained=2)


class TwoOutputs(DummyClassifier):
    """Gives a list, as classifiers of several outputs do."""

    def predict_proba(self, X: np.ndarray) -> list[np.ndarray]:
        return [np.ones((len(X), 2)), np.ones((len(X), 3))]


def test_probabilities_of_several_outputs() -> None:
    x, y = np.zeros((6, 4), np.uint8), np.arange(6) % 2
    fitted = ScikitSubmodels(TwoOutputs(), [0, 0, 1, 1], n_classes=2).fit(x, y)
    with pytest.raises(InputError, match="probabilities of TwoOutputs are not one matrix; use a"):
        fitted.scores(x)
