"""BoxNNClassifier on data of every kind: types, frames, few samples, data that come in parts."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from support.factored_models import certified, class_distances

from boxnn_numba import BoxNNClassifier, Grid
from boxnn_numba.errors import InputError, OptionError

IRIS = load_iris(return_X_y=True)
WINE = load_wine(return_X_y=True)
DIGITS = load_digits(return_X_y=True)
NUMBERS = [np.int8, np.int16, np.int32, np.int64, np.uint16, np.uint64, np.float32, np.float64]


def small(**options: Any) -> BoxNNClassifier:
    return BoxNNClassifier(**{"preset": "graded", "epochs": 2, **options})


def same(one: BoxNNClassifier, other: BoxNNClassifier) -> None:
    for name in ("lower", "upper", "labels"):
        np.testing.assert_array_equal(
            getattr(one.model_.boxes, name), getattr(other.model_.boxes, name)
        )


# --- types of features -------------------------------------------------------------------


def test_whole_numbers_give_one_model_whatever_their_type() -> None:
    x, y = DIGITS[0][:300], DIGITS[1][:300]
    first = small().fit(x, y)
    for kind in (*NUMBERS, np.uint8, np.float16, object):
        other = small().fit(x.astype(kind), y)
        same(other, first)
        np.testing.assert_array_equal(first.predict(x.astype(kind)), first.predict(x))
    same(small().fit(x.tolist(), y.tolist()), first)


def test_images_are_codes_and_predict_whole_numbers_of_every_type() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.clip(90 * y[:, None] + rng.integers(0, 60, (90, 24)), 0, 255).astype(np.uint8)
    classifier = small().fit(x, y)
    assert classifier.model_.grid is None
    assert small().fit(x.astype(np.int64), y).model_.grid is not None
    for kind in (np.int16, np.uint64, np.float32, np.float64):
        np.testing.assert_array_equal(classifier.certify(x.astype(kind)), classifier.certify(x))
    for wrong in (x / 255, x.astype(int) + 1000, x.astype(int) - 256):
        with pytest.raises(InputError, match=r"codes must be whole numbers 0\.\.255"):
            classifier.predict(wrong)
        with pytest.raises(InputError, match=r"codes must be whole numbers 0\.\.255"):
            classifier.partial_fit(wrong, y)


def test_large_integers_and_booleans() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = rng.integers(0, 40, (80, 6)) + 30 * y[:, None]
    for offset in (2**31, -(2**62), 2**53):
        big = x * 4096 + offset  # 4096 is more than the spacing of floats there
        assert small().fit(big, y).score(big, y) > 0.9
    flags = rng.random((80, 12)) < np.where(y, 0.9, 0.1)[:, None]
    classifier = small().fit(flags, y)
    same(small().fit(flags.astype(np.uint8), y), classifier)
    assert classifier.score(flags, y) > 0.9 and set(np.unique(Grid.fit(flags).codes)) == {0, 255}


@pytest.mark.parametrize(
    "y",
    [
        np.array(["a", "b", "c"])[IRIS[1]],
        np.array(["a", "b", "c"], object)[IRIS[1]],
        np.array([-5, 2**40, 7])[IRIS[1]],
        np.array([0.0, 1.0, 2.0])[IRIS[1]],
        IRIS[1] == 1,
        list("abc") * 50,
    ],
)
def test_labels_of_many_types(y: Any) -> None:
    classifier = small().fit(IRIS[0], y)
    predicted = classifier.predict(IRIS[0])
    assert predicted.dtype == np.unique(np.asarray(y)).dtype
    assert set(predicted.tolist()) <= set(np.asarray(y).tolist())
    parts = small().partial_fit(IRIS[0], y, classes=np.unique(np.asarray(y)))
    assert set(parts.predict(IRIS[0]).tolist()) <= set(np.asarray(y).tolist())


# --- frames ------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_and_the_names_of_their_columns(library: str) -> None:
    frames = pytest.importorskip(library)
    x, y = WINE
    names = [f"column {i}" for i in range(13)]
    frame = frames.DataFrame({name: x[:, i] for i, name in enumerate(names)})
    classifier = small().fit(frame, frames.Series(np.array(["a", "b", "c"])[y]))
    assert classifier.feature_names_in_.tolist() == names
    plain = small().fit(x, np.array(["a", "b", "c"])[y])
    same(classifier, plain)
    np.testing.assert_array_equal(classifier.certify(frame), plain.certify(x))
    classifier.partial_fit(frame, np.array(["a", "b", "c"])[y])
    turned = frame[names[::-1]]
    np.testing.assert_array_equal(classifier.predict(turned), classifier.predict(frame))
    other = frame[names[1:]]
    for call in (classifier.predict, classifier.certify, lambda f: classifier.partial_fit(f, y)):
        with pytest.raises(InputError, match="column 'column 0' is missing"):
            call(other)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        np.testing.assert_array_equal(classifier.predict(x), classifier.predict(frame))
    mixed = frames.DataFrame({"real": x[:, 0], "whole": (x[:, 12]).astype(int), "flag": y == 1})
    assert small().fit(mixed, y).score(mixed, y) > 0.9


def test_nullable_columns_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "a": pandas.array(WINE[0][:, 12].astype(int), "Int64"),
            "b": pandas.array(WINE[1] == 1, "boolean"),
        }
    )
    assert small().fit(frame, WINE[1]).score(frame, WINE[1]) > 0.8
    frame.loc[3, "a"] = pandas.NA
    assert small().fit(frame, WINE[1]).columns_[0].missing


# --- few samples -------------------------------------------------------------------------


def test_one_sample_of_each_class() -> None:
    classifier = BoxNNClassifier().fit([[0.0, 1.0], [5.0, 9.0]], ["a", "b"])
    assert classifier.predict([[-1.0, 0.0], [7.0, 7.0]]).tolist() == ["a", "b"]
    assert classifier.certify([[-1.0, 0.0]]).tolist() in ([0], [1])


def test_a_class_of_one_sample_does_not_cost_the_others_their_boxes() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate((rng.normal(size=(200, 8)) + np.repeat([[0.0], [3.0]], 100, 0), [[9.0] * 8]))
    y = np.repeat([0, 1, 2], [100, 100, 1])
    classifier = small().fit(x, y)
    assert np.bincount(classifier.model_.boxes.labels).tolist() == [100, 100, 1]
    assert classifier.score(x, y) > 0.98 and classifier.predict([[9.0] * 8]) == 2
    few = small(boxes=10).fit(x, y)
    assert np.bincount(few.model_.boxes.labels).tolist() == [4, 3, 1]
    assert small(validation=0.3).fit(x, y).score(x, y) > 0.9


def test_features_that_say_nothing() -> None:
    y = np.arange(40) % 2
    constant = np.full((40, 3), 7.5)
    classifier = small().fit(constant, y)
    assert (classifier.certify(constant, certificate="margin") == 0).all()
    useful = np.hstack((constant, y[:, None] * 2.0 + np.random.default_rng(0).random((40, 1))))
    assert small().fit(useful, y).score(useful, y) == 1
    assert small().fit(useful[:, 3:], y).score(useful[:, 3:], y) == 1


def test_batches_larger_than_the_data_and_many_classes() -> None:
    x, y = IRIS
    same(
        small(options={"batch": 1000}).fit(x, y), small(options={"batch": 150}).fit(x, y)
    )  # SGD sums over what there is
    many = np.arange(120) // 4
    spread = x[:120] + 5 * many[:, None]
    assert BoxNNClassifier("graded").fit(spread, many).score(spread, many) > 0.9
    crowded = BoxNNClassifier("graded", options={"alpha": 0.1}).fit(spread, many)
    assert crowded.score(spread, many) < 0.5  # what the room between the classes is looked at for


# --- data in parts -----------------------------------------------------------------------


def stream(classifier: Any, x: np.ndarray, y: np.ndarray, size: int) -> Any:
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        classifier.partial_fit(x[part], y[part], classes=np.unique(y))
    return classifier


@pytest.mark.parametrize("size", [1, 40])
def test_parts_come_close_to_the_whole(size: int) -> None:
    x, x_test, y, y_test = train_test_split(*WINE, random_state=0, stratify=WINE[1])
    x = np.concatenate((x[:1], x)) if size == 1 else x
    y = np.concatenate((y[:1], y)) if size == 1 else y
    start = 40 if size == 1 else size
    classifier = BoxNNClassifier().partial_fit(x[:start], y[:start], classes=[0, 1, 2])
    stream(classifier, x[start:], y[start:], size)
    whole = BoxNNClassifier("graded").fit(x, y)
    assert classifier.score(x_test, y_test) > whole.score(x_test, y_test) - 0.1
    assert len(classifier.model_.boxes) < len(whole.model_.boxes)


def test_the_same_parts_give_the_same_boxes_and_passes_improve_them() -> None:
    x, x_test, y, y_test = train_test_split(*DIGITS, random_state=0, stratify=DIGITS[1])
    one, other = (stream(BoxNNClassifier(), x, y, 200) for _ in range(2))
    same(one, other)
    first = one.certified_score(x_test, y_test, 3)
    for _ in range(3):
        stream(one, x, y, 200)
    assert one.certified_score(x_test, y_test, 3) > first - 0.01
    assert one.score(x_test, y_test) > 0.9
    assert one.model_.training["partial_fit_calls"] == 4 * 7


def test_fit_forgets_what_came_before_and_partial_fit_goes_on_from_it() -> None:
    x, y = IRIS
    classifier = small().partial_fit(x[:, :3], y, classes=[0, 1, 2, 9])
    same(classifier.fit(x, y), small().fit(x, y))
    assert classifier.classes_.tolist() == [0, 1, 2]
    before = classifier.model_.boxes.lower
    grid = classifier.model_.grid
    classifier.partial_fit(x, y)
    assert classifier.model_.grid is grid
    after = classifier.model_.boxes.lower
    assert len(after) >= len(before)
    assert abs(after[:40].astype(int) - before[:40]).max() < 60  # of the first class


def test_small_steps_add_up_over_calls() -> None:
    x, y = IRIS
    slow = {"lr": 0.01, "schedule": "constant"}
    classifier = BoxNNClassifier(options=slow).partial_fit(x, y, classes=[0, 1, 2])
    before = classifier.model_.boxes.lower
    for _ in range(30):
        classifier.partial_fit(x, y)
    kept = min(len(before), len(classifier.model_.boxes.lower))
    assert (classifier.model_.boxes.lower[:kept] != before[:kept]).any()


def test_never_more_boxes_than_asked_for() -> None:
    x, y = DIGITS
    classifier = stream(small(boxes=25), x[:600], y[:600], 100)
    counts = np.bincount(classifier.model_.boxes.labels)
    assert (counts <= [3] * 5 + [2] * 5).all() and counts.sum() > 15
    random = stream(small(boxes=25, options={"initialisation": "random"}), x[:300], y[:300], 100)
    assert np.bincount(random.model_.boxes.labels).tolist() == [3] * 5 + [2] * 5


def test_classes_that_come_late() -> None:
    x, y = IRIS  # sorted by class
    classifier = BoxNNClassifier().partial_fit(x[:50], y[:50], classes=[0, 1, 2])
    assert (classifier.predict(x) == 0).all()
    assert (classifier.certify(x) == 4).all()  # nothing else can be predicted yet
    assert np.isfinite(classifier.decision_function(x)).all()
    classifier.partial_fit(x[50:100], y[50:100])
    assert set(classifier.predict(x)) == {0, 1} and classifier.score(x[:100], y[:100]) > 0.95
    classifier.partial_fit(x[100:], y[100:])
    # The grid knows the range of the first class only, so the others are hard to tell apart.
    assert set(classifier.predict(x)) == {0, 1, 2} and classifier.score(x, y) > 0.6


def test_a_class_without_boxes_changes_nothing_for_the_others() -> None:
    x, y = IRIS[0][:100], IRIS[1][:100]
    two = BoxNNClassifier().partial_fit(x, y, classes=[0, 1])
    three = BoxNNClassifier().partial_fit(x, y, classes=[0, 1, 2])
    same(two, three)
    np.testing.assert_array_equal(two.certify(x), three.certify(x))


@pytest.mark.parametrize("members", [1, 2, 4])
def test_a_class_without_boxes_is_neither_likely_nor_predicted(members: int) -> None:
    x, y = IRIS[0][:100], IRIS[1][:100]
    options = {"members": members}
    two = small(options=options).partial_fit(x, y, classes=[0, 1])
    three = small(options=options).partial_fit(x, y, classes=[0, 1, 2])
    for _ in range(2):
        assert two.score(x, y) == 1
        share = three.predict_proba(x)
        np.testing.assert_allclose(share[:, :2], two.predict_proba(x))
        assert (share[:, 2] == 0).all() and share.max(axis=1).mean() > 0.9
        # All rows are predicted right, so none needs a box.
        count = len(three.model_.boxes)
        for classifier in (two, three):
            classifier.partial_fit(x, y)
        assert len(three.model_.boxes) == count


def test_probabilities_where_one_class_has_boxes() -> None:
    x, y = IRIS[0][:50], IRIS[1][:50]
    classifier = small().partial_fit(x, y, classes=[0, 1])
    assert (classifier.predict_proba(x) == [1, 0]).all()


def test_the_contract_of_partial_fit_is_that_of_scikit_learn() -> None:
    x, y = IRIS
    for classifier in (SGDClassifier(random_state=0), BoxNNClassifier()):
        with pytest.raises(ValueError, match="classes must be passed on the first call"):
            classifier.partial_fit(x, y)
        classifier.partial_fit(x[::2], y[::2], classes=[2, 1, 0])
        assert classifier.classes_.tolist() == [0, 1, 2]
        classifier.partial_fit(x[1::2], y[1::2], classes=[0, 1, 2])
        with pytest.raises(ValueError, match="not the same as on last call"):
            classifier.partial_fit(x, y, classes=[0, 1])
        with pytest.raises(ValueError, match="expecting 4 features"):
            classifier.partial_fit(x[:, :3], y)
        with pytest.raises(ValueError):
            classifier.partial_fit(x, y + 1)
    with pytest.raises(InputError, match="y holds 3; pass all classes in the first call"):
        classifier.partial_fit(x, y + 1)
    with pytest.raises(InputError, match=r"one class, \[0\]"):
        BoxNNClassifier().partial_fit(x, np.zeros(150, int), classes=[0])
    with pytest.raises(InputError, match=r"one class, \[\]"):
        BoxNNClassifier().partial_fit(x, y, classes=[])


# --- data that cannot be used ------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.where(IRIS[0] > 7.8, np.inf, IRIS[0]), "infinity"),
        (np.empty((0, 4)), "0 sample|must be one length"),
        (np.empty((150, 0)), "0 feature"),
        (IRIS[0][:, 0], "Expected 2D array"),
        (IRIS[0].reshape(150, 2, 2), "dim 3"),
        (IRIS[0][:-1], "inconsistent numbers of samples|must be one length"),
        (IRIS[0] + 1j, "Complex data"),
        (np.full((149, 4), "red"), "inconsistent numbers|column 'x0' holds 'red' at row 0|dtype"),
    ],
)
def test_bad_samples(x: np.ndarray, words: str) -> None:
    _, y = IRIS
    for call in (
        lambda: BoxNNClassifier().fit(x, y),
        lambda: BoxNNClassifier().partial_fit(x, y, classes=[0, 1, 2]),
        lambda: small().fit(*IRIS).partial_fit(x, y),
        lambda: small().fit(*IRIS).certified_score(x, y, 1),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_masked_values_are_refused() -> None:
    y = np.arange(60) % 2
    x = np.arange(120.0).reshape(60, 2) + 2 * y[:, None]
    nothing = np.ma.array(x), np.ma.array(y), np.ma.ones(60)  # masks of nothing are fine
    classifier = BoxNNClassifier("graded", boxes=2, epochs=1).fit(*nothing)
    np.testing.assert_array_equal(classifier.predict(nothing[0]), classifier.predict(x))
    masked = np.ma.array(x, mask=x == 5)
    for call in (classifier.predict, classifier.certify, classifier.explain,
                 lambda x: classifier.fit(x, y), lambda x: classifier.partial_fit(x, y),
                 lambda x: classifier.score(x, y)):  # fmt: skip
        with pytest.raises(InputError, match="X has masked values; fill them first"):
            call(masked)
    masked = np.ma.array(y, mask=y == 1)
    for call in (lambda y: classifier.fit(x, y), lambda y: classifier.fit(da.from_array(x), y),
                 lambda y: classifier.partial_fit(x, y), lambda y: classifier.score(x, y),
                 lambda y: classifier.certified_score(x, y, 1)):  # fmt: skip
        with pytest.raises(InputError, match="y has masked values; leave out their rows"):
            call(masked)
    for method in (classifier.fit, classifier.score):
        with pytest.raises(InputError, match="sample_weight has masked values; leave out"):
            method(x, y, masked)
    with pytest.raises(OptionError, match="`costs` of column 1 is None"):
        classifier.certify(x, costs=np.ma.array([1.0, 2.0], mask=[False, True]))


def test_sparse_matrices() -> None:
    x, y = scipy.sparse.csr_array(IRIS[0]), IRIS[1]
    classifier = small().fit(*IRIS)
    for call in (lambda: small().fit(x, y), lambda: classifier.predict(x)):
        with pytest.raises(TypeError, match=r"[Ss]parse data was passed"):
            call()


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros(150), r"y holds one class, \[0\.0\]; a classifier needs two or more"),
        (np.array(["2020-01-01", "2021-01-01"] * 75, "M8[D]"), "labels must be integers or str"),
        (np.array([b"a", b"b"] * 75), "labels represented as bytes"),
        (np.where(IRIS[1] == 1, np.nan, IRIS[1]), "NaN"),
        (np.linspace(0, 1, 150), "Unknown label type: continuous"),
        (np.eye(3)[IRIS[1]], "y should be a 1d array"),
        (np.array([0, "a", None] * 50, object), "y mixes strings and other labels"),
        (None, "requires y to be passed"),
    ],
)
def test_bad_labels(y: Any, words: str) -> None:
    # scikit-learn 1.6 only warns of bytes.
    with pytest.raises((ValueError, TypeError, FutureWarning), match=words):
        BoxNNClassifier().fit(IRIS[0], y)


def test_a_fit_that_failed_leaves_nothing_to_predict_with() -> None:
    classifier = small().fit(*IRIS)
    with pytest.raises(InputError, match="two or more"):
        classifier.fit(IRIS[0], np.ones(150, int))
    with pytest.raises(NotFittedError):
        classifier.predict(IRIS[0])
    classifier.partial_fit(*IRIS, classes=[0, 1, 2, 3])
    assert classifier.classes_.tolist() == [0, 1, 2, 3]


def test_errors_of_wrong_widths_and_lengths() -> None:
    classifier = small().fit(*IRIS)
    with pytest.raises(ValueError, match="X has 3 features"):
        classifier.certify(IRIS[0][:, :3])
    with pytest.raises(InputError, match="they must be one length"):
        classifier.certified_score(IRIS[0], IRIS[1][:-1], 0)


def test_boxes_with_parts_are_fitted_at_once() -> None:
    x, y = IRIS
    options = {"parts": "2", "templates": 2}
    classifier = BoxNNClassifier("graded", boxes=18, epochs=2, options=options).fit(x, y)
    model = classifier.model_
    assert model.boxes.structure.n_parts == 2 and not model.boxes.structure.is_plain
    _, radius = certified(model, class_distances(model, model.encode(x)))
    np.testing.assert_array_equal(
        classifier.certify(x, certificate="margin"), np.minimum(radius, 4)
    )
    assert classifier.score(x, y) > 0.7
    fresh = BoxNNClassifier("graded", options=options)
    for call in (lambda: classifier.partial_fit(x, y), lambda: fresh.partial_fit(x, y, [0, 1, 2])):
        with pytest.raises(ValueError, match="boxes with `parts` are trained at once"):
            call()
