"""BoxNN: what it predicts and certifies, in the user's own labels, shapes and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import reference
from support.attack_models import levelled

from boxnn_numba import Boxes, BoxNN, Grid, certified_radius, fit
from boxnn_numba.attacks import greedy_attack, quick_attack
from boxnn_numba.certificates import exact_radius, explain, pairwise_radius
from boxnn_numba.errors import InputError, OptionError

BOXES = Boxes([[0] * 6, [100] * 6, [200] * 6], [[80] * 6, [150] * 6, [255] * 6], [0, 1, 2], 60)
RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 256, (30, 6), dtype=np.uint8)


@pytest.mark.parametrize("classes", [["a", "b", "c"], [7, -1, 3], [False, True, 2], range(3)])
def test_labels_are_the_users(classes: Any) -> None:
    model = BoxNN(BOXES, classes)
    distance = reference.class_distances(
        reference.distances(CODES, BOXES.lower, BOXES.upper, 60), [0, 1, 2], 3
    )
    expected = [reference.certificate(row, 60) for row in distance]
    names = np.asarray(list(classes))
    np.testing.assert_array_equal(model.predict(CODES), names[[p for p, _ in expected]])
    prediction, radius = model.certify(CODES)
    np.testing.assert_array_equal(prediction, names[[p for p, _ in expected]])
    assert radius.tolist() == [r for _, r in expected]
    np.testing.assert_array_equal(model.class_distance(CODES), distance)


def test_convention_and_group_size_reach_the_certificate() -> None:
    for group_size in (1, 2, 3):
        model = BoxNN(BOXES, "abc", group_size=group_size)
        for convention in ("sound", "paper"):
            expected = certified_radius(model.class_distance(CODES), 60, group_size, convention)
            np.testing.assert_array_equal(model.certify(CODES, convention).radius, expected[1])


def test_samples_in_their_own_shape() -> None:
    model = BoxNN(BOXES, "abc", feature_shape=(2, 3))
    assert model.feature_shape == (2, 3)
    np.testing.assert_array_equal(model.predict(CODES.reshape(30, 2, 3)), model.predict(CODES))
    assert BoxNN(BOXES, "abc").feature_shape == (6,)


@pytest.mark.parametrize("grid", [None, Grid.fit(CODES)])
def test_samples_with_axes_in_another_order(grid: Grid | None) -> None:
    model = BoxNN(BOXES, "abc", grid, feature_shape=(2, 3))
    label, images = model.predict(CODES).tolist(), CODES.reshape(30, 2, 3)
    # Axes of length 1 change no order.
    for same in (images, images[:, None], images[..., None], CODES[:, None], CODES[:, :, None]):
        assert model.predict(same).tolist() == label
    assert BoxNN(BOXES, "abc", grid).predict(images).tolist() == label
    turned = images.transpose(0, 2, 1)
    words = (
        r"x has samples of shape \(3, 2\) and the model has \(2, 3\); put the axes in that order"
    )
    xarray = pytest.importorskip("xarray")
    dask = pytest.importorskip("dask.array")
    for wrong in (turned, turned.tolist(), xarray.DataArray(turned), dask.from_array(turned, 9)):
        for answer in (model.encode, model.predict, model.certify, model.class_distance):
            with pytest.raises(InputError, match=words):
                answer(wrong)
    for kind in ("pairwise", "exact", "patch"):
        with pytest.raises(InputError, match=words):
            model.certify(turned, certificate=kind, patch=1 if kind == "patch" else None)
    for function in (greedy_attack, quick_attack, explain):
        with pytest.raises(InputError, match=words):
            function(model, turned)


def test_real_features_go_through_the_grid() -> None:
    x = RNG.normal(size=(50, 6))
    grid = Grid.fit(x)
    model = BoxNN(BOXES, "abc", grid)
    np.testing.assert_array_equal(model.encode(x), grid.encode(x))
    np.testing.assert_array_equal(model.predict(x), BoxNN(BOXES, "abc").predict(grid.encode(x)))


def test_parts_that_do_not_fit() -> None:
    grid = Grid.fit(np.zeros((2, 5)))
    for wrong, words in (
        ({"classes": "ab"}, "2 classes and boxes of 3"),
        ({"feature_shape": (2, 2)}, r"feature_shape \(2, 2\) does not hold the boxes' 6 features"),
        ({"grid": grid}, "the grid has 5 features, the boxes 6"),
    ):
        with pytest.raises(InputError, match=words):
            BoxNN(**{"boxes": BOXES, "classes": "abc", **wrong})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="group_size is 0"):
        BoxNN(BOXES, "abc", group_size=0)


def test_bad_samples() -> None:
    model = BoxNN(BOXES, "abc", Grid.fit(np.eye(6)))
    codes = BoxNN(BOXES, "abc")
    for call in (model.predict, model.certify, codes.predict, codes.certify, codes.class_distance):
        with pytest.raises(InputError, match="5 features and the model has 6"):
            call(np.zeros((3, 5)))
        with pytest.raises(InputError, match="must be two-dimensional"):
            call(np.zeros(6))
        with pytest.raises(InputError, match="is empty"):
            call(np.zeros((2, 0)))
    with pytest.raises(InputError, match="holds nan at row 1, feature 2; drop or fill"):
        model.predict([[0.0] * 6, [0.0, 0.0, np.nan, 0.0, 0.0, 0.0]])
    with pytest.raises(InputError, match=r"holds 0\.5 at row 0, feature 0; codes must be whole"):
        codes.predict(np.full((2, 6), 0.5))
    with pytest.raises(InputError, match="unknown convention"):
        _as_input(lambda: codes.certify(CODES, "loose"))


def _as_input(call: Any) -> None:
    """`convention` is an option; its error is a ValueError like the others."""
    try:
        call()
    except OptionError as error:
        assert isinstance(error, ValueError) and error.exit_code == 2
        raise InputError(str(error)) from error


@pytest.mark.parametrize(
    ("lower", "upper", "labels", "more", "words"),
    [
        ([[5]], [[4]], [0], {}, "box 0 has lower 5 > upper 4 at feature 0"),
        ([[5, 1]], [[9]], [0], {}, r"lower has shape \(1, 2\) and upper \(1, 1\)"),
        ([[-1]], [[4]], [0], {}, "lower holds -1 at row 0, feature 0; codes must be"),
        ([[1]], [[256]], [0], {}, "upper holds 256"),
        ([[1]], [[np.nan]], [0], {}, "upper holds nan"),
        ([[1]], [[4]], [0, 1], {}, "2 labels for 1 rows"),
        ([[1]], [[4]], [-1], {}, "must be class indices"),
        ([[1]], [[4]], ["a"], {}, "must be class indices"),
        ([[1]], [[4]], [3], {"n_classes": 3}, "a box has label 3, but there are 3 classes"),
        (np.empty((0, 2)), np.empty((0, 2)), [], {}, "is empty"),
        ([1], [4], [0], {}, "must be two-dimensional"),
    ],
)
def test_bad_boxes(lower: Any, upper: Any, labels: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Boxes(lower, upper, labels, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [0, 256, -1, 1.5, "wide", None])
def test_bad_widths(width: Any) -> None:
    with pytest.raises(OptionError, match="width is"):
        Boxes([[1]], [[4]], [0], width)


def test_fit_takes_labels_and_shapes_as_they_come() -> None:
    rng = np.random.default_rng(1)
    y = np.array(["cat", "dog", "emu"])[np.arange(90) % 3]
    x = np.clip(90 * (np.arange(90) % 3)[:, None] + rng.integers(0, 60, (90, 24)), 0, 255)
    options: dict[str, Any] = {"boxes": 6, "epochs": 1, "lr": 2.0, "preset": "paper", "beta": 9.0}
    model = fit(x.astype(np.uint8).reshape(90, 2, 12), y, **options)
    assert model.classes == ["cat", "dog", "emu"]
    assert model.feature_shape == (2, 12) and model.grid is None
    assert (model.predict(x) == y).mean() > 0.9
    for other in (y.tolist(), y.astype(object)):
        same = fit(x.astype(np.uint8), other, **options)
        np.testing.assert_array_equal(same.boxes.lower, model.boxes.lower)
    whole = fit(x.astype(np.uint8), 10.0 * (np.arange(90) % 3), **options)
    assert whole.classes == [0, 10, 20]
    records = []
    fit(x / 255, y, **{**options, "epochs": 3}, on_epoch=records.append)
    assert [record.epoch for record in records] == [1, 2, 3]


def test_what_a_model_knows_of_its_training() -> None:
    model = fit(CODES, np.arange(30) % 2, preset="graded", boxes=4, epochs=2, seed=5, lr=0.1)
    training = model.training
    assert training["seed"] == training["options"]["seed"] == 5
    assert training["options"]["boxes"] == 4
    assert [record["epoch"] for record in training["history"]] == [1, 2]
    assert set(training["versions"]) == {"boxnn-numba", "numpy", "numba", "python"}


def test_kinds_of_certificates() -> None:
    """Each is at least the one before, and those of the functions of that name."""
    model, x, _ = levelled(2, 5, 60, 1, 3)
    margin, pairwise, exact = (
        model.certify(x, certificate=kind) for kind in ("margin", "pairwise", "exact")
    )
    for one in (pairwise, exact):
        np.testing.assert_array_equal(one.prediction, margin.prediction)
        assert one.radius.dtype == np.int32
    assert (margin.radius <= pairwise.radius).all() and (pairwise.radius <= exact.radius).all()
    assert (margin.radius < exact.radius).any()
    np.testing.assert_array_equal(pairwise.radius, pairwise_radius(model, x).radius)
    assert exact.radius.tolist() == [exact_radius(model, row).lower for row in x]
    hurried = model.certify(x, certificate="exact", time_limit=1e-9).radius
    assert (pairwise.radius <= hurried).all() and (hurried <= exact.radius).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"certificate": "tight"}, "choose one of margin, pairwise, exact"),
        ({"certificate": "pairwise", "convention": "paper"}, "leave out convention"),
        ({"certificate": "exact", "device": "cuda"}, "computed on the CPU"),
        ({"certificate": "pairwise", "device": "gpu"}, "computed on the CPU"),
        ({"certificate": "exact", "time_limit": 0}, "time_limit is 0"),
    ],
)
def test_certificates_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        BoxNN(BOXES, "abc").certify(CODES, **options)


def test_a_model_is_one_readable_line() -> None:
    classes = ["<b>", "two\nlines", "c\x1b"]
    model = BoxNN(BOXES, classes, feature_shape=(2, 3), group_size=3)
    assert repr(model) == (
        "BoxNN(boxes: 3 of width 60; features: 2 x 3 codes in groups of 3; "
        "classes: <b>, two lines, c\\x1b)"
    )
    assert "6 of width 60 in 2 sets" in repr(BoxNN(BOXES, "abc", others=(BOXES,)))
    many = Boxes(BOXES.lower, BOXES.upper, BOXES.labels, 60, n_classes=30)
    assert repr(BoxNN(many, range(30), Grid.fit(RNG.normal(size=(9, 6))))) == (
        "BoxNN(boxes: 3 of width 60; features: 6 real numbers; classes: 0, 1, 2, 3, 4, 5, ... (30))"
    )
    parts, rows = {"part": [0, 0, 0, 1, 1, 2], "group": [0, 0, 0, 1, 1, 2]}, ([[0] * 6] * 4,) * 2
    factored = BoxNN(Boxes(*rows, [0, 0, 0, 1], template=[0, 0, 1, 2], **parts), "ab")
    assert repr(factored) == (
        "BoxNN(boxes: 4 of width 1, 3 templates of 3 parts; "
        "features: 6 codes in groups of 1 or 2 or 3; classes: a, b)"
    )
    table = model._repr_html_()
    assert table.startswith("<table>") and table.count("<tr>") == 3
    assert "&lt;b&gt;, two lines, c" in table and "<b>" not in table


@pytest.mark.parametrize(
    "offset",
    [[0, -(2**63)], np.array([0, -(2**31)], np.int32), [0, 2**29 + 1], [0.5, 1.0], [1, 2, 3]],
    ids=str,
)
def test_offsets_that_do_not_fit(offset: Any) -> None:
    boxes = Boxes([[0] * 4, [100] * 4], [[50] * 4, [255] * 4], [0, 1], 10)
    with pytest.raises(InputError, match=r"`offset` has shape .* within 2"):
        BoxNN(boxes, [0, 1], offset=offset)
