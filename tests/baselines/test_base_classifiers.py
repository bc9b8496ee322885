"""Base classifiers of the published defences: what they see, how they train, what they refuse."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from boxnn_numba.baselines import torch_networks
from boxnn_numba.baselines.ablation import MaskedClassifier, draws
from boxnn_numba.baselines.base_classifiers import (
    MaskedNetwork,
    ScikitMasked,
    ScikitSubmodels,
    SubmodelNetworks,
    train_masked,
    train_submodels,
)
from boxnn_numba.baselines.partition import Submodels, make_partition
from boxnn_numba.errors import BackendError, DivergenceError, InputError, OptionError

N, PARTS, SHAPE = 64, 5, (8, 8)
FAST: dict[str, Any] = {"n_classes": 3, "epochs": 4, "batch": 32, "seed": 1, "threads": 1}


def toy(rows: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes that any few features tell apart: dark, middle and bright."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    x = np.array([40, 128, 215])[y, None] + rng.integers(-30, 31, (rows, N))
    return x.astype(np.uint8), y


def masks(rows: int, retained: int = 12) -> np.ndarray:
    return np.concatenate(list(draws(N, retained, rows, 5, 0, 0)))


def part() -> np.ndarray:
    return make_partition("strided", N, PARTS)


@pytest.fixture(scope="module")
def cnn() -> MaskedNetwork:
    pytest.importorskip("torch")
    return train_masked(*toy(), retained=12, feature_shape=SHAPE, network="small", **FAST)


@pytest.fixture(scope="module")
def mlp() -> MaskedNetwork:
    pytest.importorskip("torch")
    return train_masked(*toy(), retained=12, base="mlp", **FAST)


@pytest.fixture(scope="module")
def submodels() -> SubmodelNetworks:
    pytest.importorskip("torch")
    return train_submodels(*toy(), part(), **FAST)


@pytest.fixture(params=["cnn", "mlp", "scikit"])
def masked(request: pytest.FixtureRequest) -> MaskedClassifier:
    if request.param == "scikit":
        logistic = LogisticRegression(max_iter=1000)
        return ScikitMasked(logistic, n_classes=3, retained=12).fit(*toy(300))
    classifier: MaskedClassifier = request.getfixturevalue(request.param)
    return classifier


@pytest.fixture(params=["torch", "scikit"])
def parted(request: pytest.FixtureRequest) -> Submodels:
    if request.param == "scikit":
        return ScikitSubmodels(LogisticRegression(), part(), n_classes=3).fit(*toy(300))
    classifier: Submodels = request.getfixturevalue("submodels")
    return classifier


# --- what they see ---------------------------------------------------------------------


@pytest.mark.torch
def test_masked_classifier_learns_and_sees_only_kept_features(masked: MaskedClassifier) -> None:
    x, y = toy(200, seed=7)
    kept = masks(len(x))
    scores = masked.scores(x, kept)
    assert scores.shape == (200, 3) and scores.dtype == np.float32
    assert (scores.argmax(axis=1) == y).mean() > 0.9
    other = np.random.default_rng(3).integers(0, 256, x.shape).astype(np.uint8)
    np.testing.assert_array_equal(masked.scores(np.where(kept, x, other), kept), scores)
    assert (masked.scores(np.where(kept, other, x), kept) != scores).any()


@pytest.mark.torch
def test_an_ablated_feature_is_neither_black_nor_white(masked: MaskedClassifier) -> None:
    kept = masks(1)
    scores = []
    for code in (0, 255):
        x = np.full((1, N), code, np.uint8)
        scores.append(masked.scores(x, np.ones_like(kept)))
        scores.append(masked.scores(x, kept))
    assert len({found.tobytes() for found in scores}) == 4


@pytest.mark.torch
def test_a_submodel_sees_only_its_part(parted: Submodels) -> None:
    x, y = toy(100, seed=7)
    scores = parted.scores(x)
    assert (parted.n_models, parted.n_classes) == (PARTS, 3)
    assert scores.shape == (100, PARTS, 3) and scores.dtype == np.float32
    assert (scores.argmax(axis=2) == y[:, None]).mean() > 0.9
    for t in range(PARTS):
        changed = np.where(part() == t, 255 - x, x).astype(np.uint8)
        found = parted.scores(changed)
        others = np.arange(PARTS) != t
        np.testing.assert_array_equal(found[:, others], scores[:, others])
        assert (found[:, t] != scores[:, t]).any(axis=1).all()


@pytest.mark.torch
def test_networks_are_what_their_arrays_say(
    mlp: MaskedNetwork, submodels: SubmodelNetworks
) -> None:
    """The folded weights, applied in NumPy in float64, give the scores."""
    x, _ = toy(20, seed=7)
    kept = masks(len(x))

    def perceptron(h: np.ndarray, w: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
        for weight, bias in zip(w[:-1], b[:-1], strict=True):
            h = np.maximum(h @ weight + bias, 0)
        return h @ w[-1] + b[-1]

    pairs = np.stack([x / 255 * kept, (1 - x / 255) * kept], axis=-1).reshape(len(x), -1)
    arrays = mlp.arrays()
    weights = [arrays[f"{i}.weight"].T for i in range(3)]
    expected = perceptron(pairs, weights, [arrays[f"{i}.bias"] for i in range(3)])
    np.testing.assert_allclose(mlp.scores(x, kept), expected, rtol=1e-4, atol=1e-4)
    assert mlp.multiply_adds() == sum(weight.size for weight in weights)

    arrays, scores = submodels.arrays(), submodels.scores(x)
    for t in range(PARTS):
        own = x[:, part() == t] / 255
        pairs = np.stack([own, 1 - own], axis=-1).reshape(len(x), -1)
        weights = [arrays[f"{i}.weight"][t] for i in range(3)]
        weights[0] = weights[0][: pairs.shape[1]]  # the rest weighs the padding
        expected = perceptron(pairs, weights, [arrays[f"{i}.bias"][t] for i in range(3)])
        np.testing.assert_allclose(scores[:, t], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.torch
def test_multiply_adds_of_a_cnn(cnn: MaskedNetwork) -> None:
    # 8 x 8 -> 2 x 2 x 48 -> 1 x 1 x 128 -> 256 -> 3
    assert cnn.multiply_adds() == 4 * 48 * 2 * 64 + 128 * 48 * 9 + 128 * 256 + 256 * 3
    assert cnn.settings["network"] == "small"


def test_the_published_network_is_that_of_levine_and_feizi() -> None:
    layers = torch_networks.cnn_layers("published", 28, 28, 2, 10)
    assert [layer.shape for layer in layers] == [
        (64, 2, 4, 4), (128, 64, 4, 4), (500, 128 * 7 * 7), (100, 500), (10, 100),
    ]  # fmt: skip
    # 28 x 28 -> 14 x 14 -> 7 x 7: 10.0 million
    counted = 14 * 14 * 64 * 32 + 7 * 7 * 128 * 1024 + 6272 * 500 + 500 * 100 + 1000
    assert torch_networks.multiply_adds(layers, (28, 28)) == counted == 10_010_936


@pytest.mark.torch
def test_color_images_and_batches_of_any_size() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 6 * 5 * 3)).astype(np.uint8)
    network = train_masked(
        x, np.arange(40) % 2, n_classes=2, retained=12, feature_shape=(6, 5, 3), group_size=3,
        epochs=1,
    )  # fmt: skip
    assert network.settings["network"] == "published" and network.settings["group_size"] == 3
    many = np.tile(x, (30, 1))
    kept = np.ones(many.shape, bool)
    scores = network.scores(many, kept)
    assert scores.shape == (1200, 2)
    np.testing.assert_allclose(scores[-40:], network.scores(x, kept[:40]), rtol=1e-4, atol=1e-5)


@pytest.mark.torch
def test_bfloat16_rounds_what_it_computes_with(cnn: MaskedNetwork) -> None:
    x, _ = toy(200, seed=7)
    kept = masks(len(x))
    rounded = MaskedNetwork(cnn.arrays(), cnn.settings | {"precision": "bfloat16"}, threads=1)
    difference = np.abs(rounded.scores(x, kept) - cnn.scores(x, kept))
    # Eight bits of a number are kept, in each of four layers.
    assert 0 < difference.max() < 4 * 2**-7 * np.abs(cnn.scores(x, kept)).max()

    options = {"retained": 12, "feature_shape": SHAPE, "network": "small", **FAST}
    trained = train_masked(*toy(), **options, precision="bfloat16")
    again = MaskedNetwork.from_arrays(trained.arrays(), trained.settings, threads=1)
    np.testing.assert_array_equal(again.scores(x, kept), trained.scores(x, kept))
    assert trained.settings["precision"] == "bfloat16"
    assert trained.settings["validation_accuracy"] > 0.9 * cnn.settings["validation_accuracy"]
    assert all(array.dtype == np.float32 for array in trained.arrays().values())


# --- weights in and out ----------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("name", ["cnn", "mlp", "submodels"])
def test_weights_survive_arrays_and_json(name: str, request: pytest.FixtureRequest) -> None:
    network = request.getfixturevalue(name)
    arrays, settings = network.arrays(), json.loads(json.dumps(network.settings))
    assert all(type(array) is np.ndarray and array.dtype != object for array in arrays.values())
    x, _ = toy(50, seed=7)
    inputs = (x,) if name == "submodels" else (x, masks(len(x)))
    again = type(network).from_arrays(arrays, settings, threads=1)
    for copy in (again, pickle.loads(pickle.dumps(network))):  # as Dask sends it to a worker
        np.testing.assert_array_equal(copy.scores(*inputs), network.scores(*inputs))


@pytest.mark.torch
def test_damaged_weights_are_refused(mlp: MaskedNetwork, submodels: SubmodelNetworks) -> None:
    arrays, settings = mlp.arrays(), mlp.settings
    with pytest.raises(InputError, match=r"array 1\.bias .* is missing"):
        MaskedNetwork.from_arrays({k: v for k, v in arrays.items() if k != "1.bias"}, settings)
    with pytest.raises(InputError, match=r"array 0\.weight .* float32 of shape \(512, 128\)"):
        MaskedNetwork.from_arrays(arrays | {"0.weight": arrays["0.weight"].T}, settings)
    with pytest.raises(InputError, match=r"array 2\.bias .* NaN"):
        MaskedNetwork.from_arrays(arrays | {"2.bias": arrays["2.bias"] * np.nan}, settings)
    with pytest.raises(OptionError, match="unknown precision"):
        MaskedNetwork.from_arrays(arrays, settings | {"precision": "half"})
    with pytest.raises(InputError, match="of kind 'submodels', not 'masked'"):
        MaskedNetwork.from_arrays(submodels.arrays(), submodels.settings)
    one_less = make_partition("strided", N, PARTS - 1)
    with pytest.raises(InputError, match="part of the base classifier does not fit"):
        SubmodelNetworks.from_arrays(submodels.arrays() | {"part": one_less}, submodels.settings)


# --- training --------------------------------------------------------------------------


class Recorder:
    """A progress object that keeps what it is told."""

    def __init__(self) -> None:
        self.total, self.done, self.notes = 0, 0, [""]

    def start(self, total: int, unit: str) -> None:
        assert unit == "samples"
        self.total = total

    def advance(self, n: int) -> None:
        self.done += n

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.torch
def test_the_same_seed_gives_the_same_weights(
    cnn: MaskedNetwork, submodels: SubmodelNetworks
) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(99)  # the seed of torch itself has no influence ...
    before = torch.random.get_rng_state()
    options = {"retained": 12, "feature_shape": SHAPE, "network": "small", **FAST}
    again = train_masked(*toy(), **options)
    assert torch.equal(torch.random.get_rng_state(), before)  # ... and is left alone
    other = train_masked(*toy(), **options | {"seed": 2})
    for key, value in cnn.arrays().items():
        np.testing.assert_array_equal(again.arrays()[key], value)
        assert (other.arrays()[key] != value).any()
    again_parted = train_submodels(*toy(), part(), **FAST)
    for key, value in submodels.arrays().items():
        np.testing.assert_array_equal(again_parted.arrays()[key], value)


@pytest.mark.torch
def test_progress_and_the_best_epoch() -> None:
    pytest.importorskip("torch")
    progress = Recorder()
    x, y = toy(300)
    options = FAST | {"epochs": 30, "patience": 2}
    network = train_submodels(x, y, part(), progress=progress, **options)
    settings = network.settings
    # Three classes of brightness are learnt at once; nothing is better than all right.
    assert settings["validation_accuracy"] == 1
    assert settings["ran"] == settings["best_epoch"] + 2 < 30
    assert progress.total == 30 * 270 and progress.done == settings["ran"] * 270
    assert "100.0% of validation samples" in progress.notes[-1]
    last = train_submodels(x, y, part(), validation=0, **FAST).settings
    assert (last["best_epoch"], last["validation_accuracy"]) == (4, None)


@pytest.mark.torch
def test_divergence_is_told() -> None:
    pytest.importorskip("torch")
    with pytest.raises(DivergenceError, match=r"diverged in epoch \d+; lower lr"):
        train_submodels(*toy(90), part(), lr=1e4, **FAST | {"epochs": 40})


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retained": 0}, "retained is 0; it must be a whole number from 1 to 64"),
        ({"retained": 65}, "retained is 65"),
        ({"retained": 17, "group_size": 4}, "retained is 17; it must be .* from 1 to 16"),
        ({"network": "large"}, "unknown network 'large'; choose one of published, small"),
        ({"base": "mlp", "network": "small"}, "`network` is of the base cnn"),
        ({"precision": "half"}, "unknown precision 'half'; choose one of float32, bfloat16"),
        ({"base": "tree"}, "unknown base 'tree'; choose one of cnn, mlp"),
        ({"feature_shape": None}, "a cnn takes images of at least 4 x 4"),
        ({"feature_shape": (2, 32)}, "at least 4 x 4, not .* mlp as `base`"),
        ({"feature_shape": (8, 9)}, "holds 72 values and a sample has 64"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 1}, "batch is 1"),
        ({"lr": -1}, "lr is -1"),
        ({"validation": 1}, "validation is 1"),
        ({"patience": 0}, "patience is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "unknown device 'tpu'; choose one of cpu, cuda"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(OptionError, match=message):
        train_masked(*toy(30), **{"retained": 12, "feature_shape": SHAPE, **FAST, **options})


@pytest.mark.torch
def test_data_that_cannot_train() -> None:
    pytest.importorskip("torch")
    x, y = toy(30)
    with pytest.raises(InputError, match="class 3 has no training sample"):
        train_masked(x, y, retained=12, base="mlp", **FAST | {"n_classes": 4})
    with pytest.raises(InputError, match="y is 2 at row 2; classes are 0"):
        train_submodels(x, y, part(), **FAST | {"n_classes": 2})
    with pytest.raises(InputError, match="part leaves a part without features"):
        train_submodels(x, y, np.where(part() == 1, 2, part()), **FAST)
    with pytest.raises(InputError, match="part has a group of 2 features in two parts"):
        train_submodels(x, y, part(), group_size=2, **FAST)
    with pytest.raises(InputError, match="it must be 64 whole numbers"):
        train_submodels(x, y, part()[:-1], **FAST)


@pytest.mark.torch
def test_cuda_without_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match="no CUDA device on this machine; use `device` cpu"):
        train_masked(*toy(30), retained=12, base="mlp", device="cuda", **FAST)


# --- inputs that do not fit ------------------------------------------------------------


@pytest.mark.torch
def test_masked_inputs_that_do_not_fit(masked: MaskedClassifier) -> None:
    x, _ = toy(3)
    with pytest.raises(InputError, match="x has 63 features and the base classifier has 64"):
        masked.scores(x[:, 1:], masks(3)[:, 1:])
    with pytest.raises(InputError, match=r"kept is bool of shape \(2, 64\)"):
        masked.scores(x, masks(2))
    with pytest.raises(InputError, match=r"kept is int64 of shape"):
        masked.scores(x, masks(3).astype(np.int64))


@pytest.mark.torch
def test_submodel_inputs_that_do_not_fit(parted: Submodels) -> None:
    with pytest.raises(InputError, match="x has 63 features and the base classifier has 64"):
        parted.scores(toy(3)[0][:, 1:])


# --- scikit-learn ----------------------------------------------------------------------


def test_scikit_classifiers_that_cannot_serve() -> None:
    x, y = toy(30)
    with pytest.raises(OptionError, match="LinearSVC has no predict_proba"):
        ScikitMasked(LinearSVC(), n_classes=3, retained=12)
    with pytest.raises(InputError, match="not fitted; call fit"):
        ScikitMasked(DummyClassifier(), n_classes=3, retained=12).scores(x, masks(30))
    with pytest.raises(InputError, match="not fitted; call fit"):
        ScikitSubmodels(DummyClassifier(), part(), n_classes=3).scores(x)
    with pytest.raises(InputError, match="class 3 has no training sample"):
        ScikitMasked(DummyClassifier(), n_classes=4, retained=12).fit(x, y)
    with pytest.raises(OptionError, match="retained is 99"):
        ScikitMasked(DummyClassifier(), n_classes=3, retained=99).fit(x, y)


class TwoColumns(DummyClassifier):
    """Leaves out a class."""

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return super().predict_proba(X)[:, :2]


def test_scikit_classifier_of_the_wrong_shape() -> None:
    x, y = toy(30)
    wrong = r"probabilities of TwoColumns have shape \(30, 2\); they must have shape \(30, 3\)"
    with pytest.raises(InputError, match=wrong):
        ScikitMasked(TwoColumns(), n_classes=3, retained=12).fit(x, y).scores(x, masks(30))
    with pytest.raises(InputError, match=wrong):
        ScikitSubmodels(TwoColumns(), part(), n_classes=3).fit(x, y).scores(x)


def test_scikit_masks_are_seeded() -> None:
    x, y = toy(30)
    kept = masks(30)
    scores = [
        ScikitMasked(LogisticRegression(), n_classes=3, retained=9, copies=1, seed=seed)
        .fit(x, y)
        .scores(x, kept)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()


# --- without torch ---------------------------------------------------------------------


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    words = r"pip install 'boxnn-numba\[baselines\]'"
    with pytest.raises(BackendError, match=words):
        train_masked(*toy(30), retained=12, base="mlp", **FAST)
    with pytest.raises(BackendError, match=words):
        torch_networks.load_torch()


def test_importing_does_not_import_torch() -> None:
    code = "import sys, boxnn_numba.baselines.base_classifiers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
