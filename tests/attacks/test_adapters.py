"""Adapters for other libraries: what they are told, and that their attacks beat no certificate."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine
from support import reference

from boxnn_numba import Boxes, BoxNN, BoxNNClassifier
from boxnn_numba.attacks import adapters
from boxnn_numba.errors import BackendError, InputError, OptionError

RNG = np.random.default_rng(0)
BOXES = Boxes([[0] * 6, [100] * 6, [200] * 6], [[80] * 6, [150] * 6, [255] * 6], [0, 1, 2], 60)
MODEL = BoxNN(BOXES, ["a", "b", "c"], feature_shape=(2, 3))


def library(*names: str) -> list[Any]:
    """Import a library's modules, or skip: its warnings while that happens are its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return [import_module(name) for name in names]
        except ModuleNotFoundError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def images() -> tuple[BoxNNClassifier, np.ndarray]:
    """A classifier of codes, and 8 x 8 images in float32."""
    x, y = load_digits(return_X_y=True)
    codes = (15 * x).astype(np.uint8)
    classifier = BoxNNClassifier(preset="graded", epochs=1, boxes=200).fit(codes, y)
    assert classifier.model_.grid is None
    return classifier, codes[:12].astype(np.float32)


@pytest.fixture(scope="module")
def columns() -> tuple[BoxNNClassifier, np.ndarray]:
    """A classifier of real features, and samples in float32."""
    x, y = load_wine(return_X_y=True)
    classifier = BoxNNClassifier(preset="graded", epochs=4, boxes=12).fit(x, y)
    return classifier, x[::15].astype(np.float32)


# --- what the adapters compute -----------------------------------------------------------


def test_scores_against_loops() -> None:
    x = RNG.uniform(-40, 300, (20, 2, 3))
    codes = [[max(0, min(255, round(v))) for v in row] for row in x.reshape(20, 6).tolist()]
    distance = reference.class_distances(
        reference.distances(np.array(codes), BOXES.lower, BOXES.upper, 60), [0, 1, 2], 3
    )
    for shape in ((20, 6), (20, 2, 3), (20, 1, 3, 2)):
        scores = adapters.scores(MODEL, x.reshape(shape))
        np.testing.assert_allclose(scores, -np.array(distance) / 60)
    expected = [reference.certificate(row, 60) for row in distance]
    prediction, radius = adapters.certify(MODEL, x)
    assert prediction.tolist() == ["abc"[p] for p, _ in expected]
    assert radius.tolist() == [r for _, r in expected]


def test_a_certificate_holds_for_numbers_between_codes() -> None:
    x = RNG.uniform(0, 255, (200, 6))
    prediction, radius = adapters.certify(MODEL, x)
    for _ in range(20):
        order = RNG.random(x.shape).argsort(axis=1)
        other = np.where(order < radius[:, None], RNG.uniform(-100, 400, x.shape), x)
        assert (adapters.changed_features(MODEL, x, other) <= radius).all()
        np.testing.assert_array_equal(adapters.certify(MODEL, other).prediction, prediction)


def test_what_counts_as_changed(columns: tuple[BoxNNClassifier, np.ndarray]) -> None:
    x = np.array([[10.2, 20, 30, 40, 50, 60]])
    for other, count in (([10.4, 20, 30, 40, 50, 60], 0), ([10.6, 20, 30, 40, 50, 61], 2)):
        assert adapters.changed_features(MODEL, x, [other]) == count
    pixels = BoxNN(BOXES, "abc", group_size=3)
    assert adapters.changed_features(pixels, x, [[0, 0, 0, 40, 50, 60]]) == 1
    assert adapters.certify(pixels, x).radius == adapters.certify(MODEL, x).radius // 3
    classifier, samples = columns
    moved = samples.copy()
    moved[:, [0, 5]] += 1e4
    assert adapters.changed_features(classifier, samples, moved).tolist() == [2] * len(samples)
    np.testing.assert_array_equal(
        adapters.certify(classifier, samples).radius, classifier.certify(samples)
    )


class Recorder(SimpleNamespace):
    """Stands for a class of a library that is not installed: keeps what it is given."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(positional=positional, **named)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the libraries are there."""
    for name, members in (
        ("art", {}),
        ("art.estimators", {}),
        ("art.estimators.classification", {"BlackBoxClassifierNeuralNetwork": Recorder}),
        ("foolbox", {"models": SimpleNamespace(NumPyModel=Recorder)}),
    ):
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


def test_an_ensemble_answers_as_a_whole() -> None:
    shifted = Boxes(BOXES.lower // 2, BOXES.upper, BOXES.labels, BOXES.width)
    model = BoxNN(BOXES, MODEL.classes, others=(shifted,))
    x = RNG.integers(0, 256, (30, 6), dtype=np.uint8)
    expected = model.class_distance(x)
    np.testing.assert_allclose(adapters.scores(model, x), -expected / (2 * BOXES.width))
    for found, wanted in zip(adapters.certify(model, x), model.certify(x), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (expected != MODEL.class_distance(x)).any()


@pytest.mark.usefixtures("pretended")
def test_what_libraries_are_told(columns: tuple[BoxNNClassifier, np.ndarray]) -> None:
    target = adapters.art_classifier(MODEL)
    predict, shape, n_classes = target.positional
    assert shape == (2, 3) and n_classes == 3 and target.clip_values == (0, 255)
    x = RNG.uniform(0, 255, (5, 2, 3))
    np.testing.assert_array_equal(predict(x), adapters.scores(MODEL, x))
    likely = adapters.art_classifier(MODEL, probabilities=True).positional[0](x)
    np.testing.assert_allclose(likely.sum(axis=1), 1)
    np.testing.assert_array_equal(likely.argmax(axis=1), predict(x).argmax(axis=1))
    wide = adapters.art_classifier(MODEL, [1, 3, 2], (np.arange(6), 200), channels_first=False)
    assert wide.positional[1] == (1, 3, 2) and not wide.channels_first
    np.testing.assert_array_equal(wide.clip_values[0], np.arange(6).reshape(1, 3, 2))
    np.testing.assert_array_equal(wide.clip_values[1], np.full((1, 3, 2), 200))
    classifier, samples = columns
    low, high = adapters.art_classifier(classifier).clip_values
    assert low.shape == (13,) and (low < high).all() and low.dtype == np.float32
    grid = classifier.model_.grid
    assert grid is not None
    for side, level in ((low, 0), (high, -1)):  # the outermost bin of every feature
        codes = grid.encode(side[None])[0]
        assert codes.tolist() == [grid.codes[k, : grid.counts[k] + 1][level] for k in range(13)]
    model = adapters.foolbox_model(classifier)
    assert model.positional[1] == (low.min(), high.max())
    assert adapters.foolbox_model(MODEL, (0, 1)).positional[1] == (0, 1)
    assert model.positional[0](samples).dtype == np.float32


@pytest.mark.usefixtures("pretended")
def test_constant_features_have_bounds_too() -> None:
    y = np.arange(20) % 2
    constant = np.column_stack((np.full(20, 3.0), y + RNG.random(20) / 2))
    low, high = adapters.art_classifier(BoxNNClassifier().fit(constant, y)).clip_values
    assert (low < high).all()


# --- errors ------------------------------------------------------------------------------


def test_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art.estimators.classification", None)
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(BackendError, match="pip install adversarial-robustness-toolbox") as caught:
        adapters.art_classifier(MODEL)
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="pip install foolbox"):
        adapters.foolbox_model(MODEL)


@pytest.mark.parametrize("call", [adapters.art_classifier, adapters.foolbox_model])
def test_bad_targets(call: Any) -> None:
    for wrong in (None, "model.zarr", BoxNNClassifier()):
        with pytest.raises(InputError, match="pass a BoxNN or a fitted BoxNNClassifier"):
            call(wrong)
    for bounds in ((1, 0), (0,), 5, (0, "high"), (np.nan, 1), (np.zeros(5), 255)):
        with pytest.raises(OptionError, match="domain"):
            call(MODEL, None, bounds) if call is adapters.art_classifier else call(MODEL, bounds)


def test_bad_samples() -> None:
    for call in (adapters.scores, adapters.certify):
        with pytest.raises(InputError, match="5 features and the model has 6"):
            call(MODEL, np.zeros((3, 5)))
        with pytest.raises(InputError, match="holds nan"):
            call(MODEL, np.full((3, 6), np.nan))
        with pytest.raises(InputError, match="is empty"):
            call(MODEL, np.zeros((0, 6)))
    with pytest.raises(InputError, match="3 samples and 2 adversarial ones"):
        adapters.changed_features(MODEL, np.zeros((3, 6)), np.zeros((2, 6)))
    with pytest.raises(OptionError, match="they must agree"):
        adapters.art_classifier(MODEL, feature_shape=(28, 28))


# --- attacks of other libraries ----------------------------------------------------------


def check(model: Any, x: np.ndarray, x_adv: np.ndarray) -> float:
    """Assert that no attack beats a certificate; return the share that flipped."""
    prediction, radius = adapters.certify(model, x)
    flipped = adapters.certify(model, x_adv).prediction != prediction
    changed = adapters.changed_features(model, x, x_adv)
    assert (changed > radius)[flipped].all()
    return float(flipped.mean())


def test_attacks_of_art(
    images: tuple[BoxNNClassifier, np.ndarray], columns: tuple[BoxNNClassifier, np.ndarray]
) -> None:
    attacks, _ = library("art.attacks.evasion", "art.estimators.classification")
    for model, x in (images, columns):
        target = adapters.art_classifier(model)
        assert (target.predict(x).argmax(axis=1) == adapters.scores(model, x).argmax(axis=1)).all()
        np.random.seed(0)  # noqa: NPY002 (what ART draws from)
        jump = attacks.HopSkipJump(target, max_iter=2, max_eval=200, init_eval=20, verbose=False)
        assert check(model, x, jump.generate(x)) > 0.9
        walk = attacks.BoundaryAttack(target, targeted=False, max_iter=5, verbose=False)
        assert check(model, x, walk.generate(x)) > 0.9
    model, x = images
    pictures = x.reshape(-1, 1, 8, 8)
    target = adapters.art_classifier(model, feature_shape=(1, 8, 8))
    square = attacks.SquareAttack(target, max_iter=30, eps=200.0, verbose=False)
    assert check(model, pictures, square.generate(pictures)) > 0.9
    likely = adapters.art_classifier(model, feature_shape=(1, 8, 8), probabilities=True)
    simba = attacks.SimBA(likely, attack="px", epsilon=255.0, max_iter=60, verbose=False)
    assert check(model, pictures, simba.generate(pictures)) > 0.5
    pixel = attacks.PixelAttack(target, th=8, es=1, max_iter=2, verbose=False)
    check(model, pictures[:2], pixel.generate(pictures[:2]))


def test_attacks_of_foolbox(
    images: tuple[BoxNNClassifier, np.ndarray], columns: tuple[BoxNNClassifier, np.ndarray]
) -> None:
    ep, fb = library("eagerpy", "foolbox")
    noise = fb.attacks.SaltAndPepperNoiseAttack(steps=30)
    for (model, x), shape in ((images, (-1, 1, 8, 8)), (columns, (-1, 13))):
        np.random.seed(0)  # noqa: NPY002 (what foolbox draws from)
        pictures = ep.astensor(x.reshape(shape))
        labels = ep.astensor(adapters.scores(model, x).argmax(axis=1))
        target = adapters.foolbox_model(model, data_format="channels_first")
        for attack in (noise, fb.attacks.PointwiseAttack(init_attack=noise)):
            _, x_adv, found = attack(target, pictures, labels, epsilons=None)
            assert found.numpy().mean() > 0.9 and check(model, x, x_adv.numpy()) > 0.9
