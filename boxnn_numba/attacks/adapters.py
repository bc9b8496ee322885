"""Adapters: attacks of other libraries on a Box-NN, compared with its certificate.

The libraries are imported on first use; nothing else here needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.adversary import groups_changed
from boxnn_numba.attacks.domain import raw_values
from boxnn_numba.classifier import Certificate, Classifier
from boxnn_numba.distances import ensemble_distance
from boxnn_numba.errors import BackendError, InputError


class Fitted(Protocol):
    """A fitted estimator, such as `BoxNNClassifier`."""

    @property
    def model_(self) -> Classifier:
        """Its model."""


Target = Classifier | Fitted


def scores(model: Target, x: ArrayLike) -> np.ndarray:
    """Return the scores for black-box attacks: minus the class distances, in features.

    Parameters
    ----------
    model
        A model, or a fitted `BoxNNClassifier`.
    x
        (N, ...) samples of any shape that holds the model's features. Where the model takes codes,
        numbers between codes are rounded and numbers outside 0..255 clipped: a function of each
        feature on its own, so that the certificate holds for them as well.

    Returns
    -------
    (N, K) float64
        Class ``k`` is ``model.classes[k]``. The largest is the prediction, the first of equals.

    Raises
    ------
    InputError
        `x` does not fit the model or is not finite, or `model` is not one.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.attacks import adapters
    >>> boxes = Boxes([[0] * 4, [200] * 4], [[90] * 4, [255] * 4], labels=[0, 1], width=100)
    >>> adapters.scores(BoxNN(boxes, ["dark", "bright"]), [[30.2] * 4, [300.0] * 4])
    array([[ 0., -4.],
           [-4.,  0.]])
    """
    box_nn = _model(model)
    unit = box_nn.boxes.width * len(box_nn.box_sets)
    return np.asarray(-_class_distance(box_nn, x) / unit)


def certify(model: Target, x: ArrayLike) -> Certificate:
    """Return predictions and certified radii; parameters and errors are those of `scores`."""
    box_nn = _model(model)
    index, radius = box_nn.radii(_class_distance(box_nn, x))
    return Certificate(np.asarray(box_nn.classes)[index], radius)


def changed_features(model: Target, x: ArrayLike, x_adv: ArrayLike) -> np.ndarray:
    """Return how many features an attack has changed, as the model sees them.

    Parameters
    ----------
    model
        As for `scores`.
    x, x_adv
        (N, ...) samples and their adversarial versions, of one floating-point type: libraries
        often return float32, and features that were float64 before differ by the rounding alone.

    Returns
    -------
    (N,) int64
        Features (or feature groups) whose codes differ. Where predictions differ too, it is
        larger than the certified radius.

    Raises
    ------
    InputError
        As for `scores`, or there are not as many samples as adversarial ones.
    """
    box_nn = _model(model)
    before, after = _codes(box_nn, x), _codes(box_nn, x_adv)
    if len(before) != len(after):
        raise InputError(f"there are {len(before)} samples and {len(after)} adversarial ones")
    return groups_changed(before, after, box_nn.groups)


def art_classifier(
    model: Target,
    feature_shape: Sequence[int] | None = None,
    domain: tuple[ArrayLike, ArrayLike] | None = None,
    channels_first: bool = True,
    probabilities: bool = False,
) -> Any:
    """Return a model as the Adversarial Robustness Toolbox takes black-box classifiers.

    Parameters
    ----------
    model
        As for `scores`.
    feature_shape
        Shape of a sample in attacks, as ``(1, 28, 28)`` where one wants images with channels; the
        model's feature shape by default.
    domain
        (low, high) of what may be written, numbers or arrays of one sample's shape; 0..255 for
        codes, else a range in which each feature takes every bin of the model's grid (arrays, which
        some attacks cannot use on tables).
    channels_first
        Which axis of an image holds its channels.
    probabilities
        Whether it answers with the softmax of the scores and not with these: SimBA asks for that;
        others get along better with scores, which do not saturate.

    Returns
    -------
    art.estimators.classification.BlackBoxClassifierNeuralNetwork
        For attacks without gradients (HopSkipJump, BoundaryAttack, SquareAttack, PixelAttack, ...).
        It works in float32: certify ``x.astype(np.float32)``, and compare with that.

    Raises
    ------
    BackendError
        The library is not installed.
    InputError
        `feature_shape` does not hold the model's features, or `model` is not one.
    OptionError
        `domain` is not two numbers or arrays, low <= high.

    Examples
    --------
    ::

        from art.attacks.evasion import HopSkipJump
        from boxnn_numba.attacks import adapters

        x = x.astype(np.float32)
        x_adv = HopSkipJump(adapters.art_classifier(model)).generate(x)
        prediction, radius = adapters.certify(model, x)
        flipped = adapters.certify(model, x_adv).prediction != prediction
        assert (adapters.changed_features(model, x, x_adv) > radius)[flipped].all()
    """
    from scipy.special import softmax

    box_nn = _model(model)
    n, own = box_nn.boxes.n_features, box_nn.feature_shape
    shape = validation.sample_shape((own or (n,)) if feature_shape is None else feature_shape, n)
    low, high = _limits(box_nn, domain)
    art = _library("art.estimators.classification", "adversarial-robustness-toolbox")
    alike = low.min() == low.max() and high.min() == high.max()
    return art.BlackBoxClassifierNeuralNetwork(
        lambda x: softmax(scores(box_nn, x), axis=1) if probabilities else scores(box_nn, x),
        shape,
        box_nn.boxes.n_classes,
        channels_first=channels_first,
        clip_values=(low[0], high[0]) if alike else (low.reshape(shape), high.reshape(shape)),
    )


def foolbox_model(
    model: Target,
    domain: tuple[ArrayLike, ArrayLike] | None = None,
    data_format: str | None = None,
) -> Any:
    """Return a model as foolbox takes it, for its attacks without gradients.

    Parameters
    ----------
    model
        As for `scores`.
    domain
        As for `art_classifier`; foolbox has one range for all features and gets the widest, so
        standardise columns before training if theirs differ much.
    data_format
        ``"channels_first"`` or ``"channels_last"``, where an attack asks for it.

    Returns
    -------
    foolbox.models.NumPyModel
        Takes NumPy arrays in eagerpy's tensors, ``eagerpy.astensor(x)``.

    Raises
    ------
    BackendError, OptionError
        As for `art_classifier`.

    Examples
    --------
    ::

        import eagerpy as ep
        from foolbox.attacks import SaltAndPepperNoiseAttack

        attack = SaltAndPepperNoiseAttack(steps=50)
        target = adapters.foolbox_model(model)
        _, x_adv, found = attack(target, ep.astensor(x), ep.astensor(y), epsilons=None)
        adapters.changed_features(model, x, x_adv.numpy())
    """
    box_nn = _model(model)
    low, high = _limits(box_nn, domain)
    foolbox = _library("foolbox", "foolbox")
    return foolbox.models.NumPyModel(
        lambda x: scores(box_nn, x).astype(np.float32),
        (float(low.min()), float(high.max())),
        data_format,
    )


def _model(model: Target) -> Classifier:
    found: Any = getattr(model, "model_", model)
    if not hasattr(found, "box_sets"):
        raise InputError(
            f"model is a {type(model).__name__}; pass a BoxNN or a fitted BoxNNClassifier"
        )
    return found


def _codes(model: Classifier, x: ArrayLike) -> np.ndarray:
    """Return samples of any shape as codes."""
    rows = validation.features("x", x)
    validation.same_features("x", rows, model.boxes.n_features, "the model")
    if model.grid is not None:
        return model.grid.encode(rows)
    return np.rint(np.clip(rows, 0, validation.MAX_CODE)).astype(np.uint8)


def _class_distance(model: Classifier, x: ArrayLike) -> np.ndarray:
    """Return (N, K) int32 distances of samples of any shape, with the offsets of the classes."""
    return ensemble_distance(_codes(model, x), model.box_sets, offset=model.offset)


def _limits(
    model: Classifier, given: tuple[ArrayLike, ArrayLike] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) float32 of the least and the largest value of every feature."""
    n = model.boxes.n_features
    if given is None and model.grid is not None:
        values = raw_values(model.grid, np.dtype(np.float32))
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        # A constant feature has one bin; libraries want bounds that differ.
        return low, np.where(high > low, high, low + 1)
    if given is not None and isinstance(given, tuple | list):
        given = tuple(np.ravel(side) if np.ndim(side) else side for side in given)  # type: ignore[assignment]
    dtype = np.dtype(np.float32)
    low, high = validation.limits(given or (0, validation.MAX_CODE), n, dtype)
    return low.astype(dtype), high.astype(dtype)


def _library(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise BackendError(f"this needs {module.split('.')[0]}; pip install {package}") from error
