"""BoxNNClassifier on frames as people have them, in pipelines, and its probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    StandardScaler,
)

from boxnn_numba import BoxNNClassifier, fit, load_model, save_model
from boxnn_numba.columns import Columns
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.estimator import certified_accuracy_scorer, certified_radius
from boxnn_numba.input_columns import columns_of
from boxnn_numba.pipeline_steps import check_apart
from boxnn_numba.statistics import sharpness

WINE = load_wine(return_X_y=True)
CITIES = np.array(["Bonn", "Kiel", "Ulm", None], object)


def small(**options: Any) -> BoxNNClassifier:
    return BoxNNClassifier(**{"preset": "graded", "epochs": 2, "boxes": 20, **options})


def mixed(library: str, rows: int = 240, seed: int = 0) -> tuple[Any, np.ndarray]:
    """A frame in which a city and an amount decide, with missing cells."""
    frames = pytest.importorskip(library)
    rng = np.random.default_rng(seed)
    city, amount = rng.integers(0, 4, rows), rng.normal(size=rows)
    y = np.where(city < 2, amount > 0, city == 3).astype(int)
    table = {
        "city": CITIES[city],
        "amount": np.where(rng.random(rows) < 0.1, np.nan, amount),
        "member": rng.random(rows) < 0.5,
        "since": np.datetime64("2024-01-01", "us") + rng.integers(0, 400, rows) * 86_400_000_000,
        "noise": rng.normal(size=rows),
    }
    if library == "polars":
        table["amount"] = frames.Series(table["amount"], nan_to_null=True)
    return frames.DataFrame(table), np.array(["no", "yes"])[y]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_mixed_frame_by_name(library: str, tmp_path: Path) -> None:
    frame, y = mixed(library)
    classifier = small().fit(frame, y)
    kinds = [column.kind for column in classifier.columns_]
    assert kinds == ["category", "number", "boolean", "date", "number"]
    assert [column.missing for column in classifier.columns_] == [True, True, False, False, False]
    assert classifier.score(frame, y) > 0.85
    turned = frame[["noise", "since", "member", "amount", "city"]]
    save_model(classifier.model_, tmp_path / "model.zip")
    model = load_model(tmp_path / "model.zip")
    for one in (classifier.model_, model):
        np.testing.assert_array_equal(one.predict(turned), classifier.predict(frame))
        assert one.columns == classifier.columns_
    np.testing.assert_array_equal(classifier.certify(turned), classifier.certify(frame))
    for call in (classifier.predict, classifier.predict_proba, classifier.certify, model.certify):
        with pytest.raises(InputError, match="column 'city' is missing; there are: "):
            call(frame[["noise", "since", "member", "amount"]])
    extra = frame.assign(town=1) if library == "pandas" else frame.with_columns(town=1)
    with pytest.raises(InputError, match="column 'town' is unknown"):
        classifier.predict(extra)


def test_no_cell_that_is_written_within_a_radius_changes_the_label() -> None:
    frame, y = mixed("pandas")
    classifier = small().fit(frame, y)
    radius, label = classifier.certify(frame), classifier.predict(frame)
    rng = np.random.default_rng(1)
    cells = frame.to_numpy(object)
    pool = [
        [*CITIES, "Paris"], [None, -1e9, 0.0, 1e9], [True, False, None],
        ["1900-01-01", None, "2024-06-01"], [None, -5.0, 5.0],
    ]  # fmt: skip
    for _ in range(40):
        written = np.array([[rng.choice(np.array(p, object)) for p in pool] for _ in y], object)
        order = rng.random(cells.shape).argsort(axis=1)
        changed = np.where(order < radius[:, None], written, cells)
        table = dict(zip(frame.columns, changed.T, strict=True))
        np.testing.assert_array_equal(classifier.predict(table), label)


def test_categories_of_arrays_by_position_name_and_mask() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 6, 300), rng.normal(size=300)])
    y = np.isin(x[:, 0], [0, 2, 5])
    for given in ([0], [-2], np.array([True, False]), ["x0"]):
        classifier = small(categorical_features=given).fit(x, y)
        assert [column.kind for column in classifier.columns_] == ["category", "number"]
        assert classifier.score(x, y) == 1
    # An array of whole numbers is one of raw values as well.
    np.testing.assert_array_equal(classifier.model_.predict(x), classifier.predict(x))
    x[:, 0] = x[:, 0] * 1000 - 2
    classifier.fit(x, y)
    assert classifier.score(x, y) == 1 and classifier.columns_[0].categories[0] == "-2"
    assert small().fit(x, y).columns_ is None
    texts = np.where(y, "yes", "no")[:, None]
    assert small().fit(texts, y).score(texts.tolist(), y) == 1


@pytest.mark.parametrize("given", [["city"], [0, 9], [True], "all", [[0]], [0.5], [-3]])
def test_categories_that_are_not_there(given: Any) -> None:
    with pytest.raises(OptionError, match="`categorical_features`"):
        columns_of({"a": [1, 2], "b": [3, 4]}, given)


def test_columns_must_be_numbers_where_that_is_asked_for() -> None:
    with pytest.raises(InputError, match="column 'a' is in `numeric` and holds 'x'"):
        columns_of({"a": ["x", "1"]}, None)
    assert columns_of({"a": ["2", "1"]}, None) == Columns.of({"a": [2, 1]})
    assert columns_of(np.eye(2), None) is None


def test_missing_numbers_of_an_array() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(0)
    gaps = np.where(rng.random(x.shape) < 0.1, np.nan, x)
    classifier = small().fit(gaps, y)
    assert classifier.score(gaps, y) > 0.85
    full = small().fit(x, y)  # of a column that had none missing
    assert full.predict(gaps).shape == y.shape
    assert cross_val_score(small(), gaps, y, cv=3).mean() > 0.85
    empty = np.where(np.isnan(gaps), None, gaps)
    assert small().fit(empty, y).score(empty, y) > 0.85
    with pytest.raises(ValueError, match="infinity"):
        classifier.predict(np.where(np.isnan(gaps), np.inf, gaps))


def test_partial_fit_keeps_the_columns_of_its_first_call() -> None:
    frame, y = mixed("pandas")
    classifier = BoxNNClassifier(boxes=20).partial_fit(frame[:120], y[:120], classes=["no", "yes"])
    columns = classifier.columns_
    classifier.partial_fit(frame[120:][["noise", "city", "since", "member", "amount"]], y[120:])
    assert classifier.columns_ is columns and classifier.score(frame, y) > 0.7


def test_fit_takes_tables_and_flags_too() -> None:
    frame, y = mixed("pandas")
    model = fit(frame, y, preset="graded", boxes=20, epochs=2)
    assert model.columns == Columns.of(frame) and (model.predict(frame) == y).mean() > 0.8
    np.testing.assert_array_equal(
        model.predict(frame), model.predict({name: frame[name] for name in frame.columns[::-1]})
    )
    flags = np.column_stack([y == "yes", np.arange(len(y)) % 2 == 0]).astype(np.uint8)
    of_flags = fit(flags, y, preset="graded", boxes=2, epochs=1)
    assert of_flags.encode(flags[:4]).max() == 255 == 255 * flags[:4].max()
    gaps = np.where(np.arange(len(y)) % 7 == 3, np.nan, flags[:, 0])[:, None]
    assert fit(gaps, y, preset="graded", boxes=4, epochs=1).predict([[np.nan]]).shape == (1,)


# --- weights -----------------------------------------------------------------------------


def test_weights_of_classes_and_rows() -> None:
    rng = np.random.default_rng(0)
    y = np.where(rng.random(600) < 0.08, "rare", "usual")
    x = rng.normal(0, 1, (600, 4)) + 1.2 * (y == "rare")[:, None]
    recall = {
        weight: (small(class_weight=weight, epochs=8).fit(x, y).predict(x) == y)[y == "rare"].mean()
        for weight in (None, "balanced")
    }
    assert recall["balanced"] > recall[None]
    one, other = (
        small().fit(x, y, sample_weight=np.where(y == "rare", 5.0, 1.0)),
        small(class_weight={"rare": 5.0}).fit(x, y),
    )
    np.testing.assert_array_equal(one.model_.boxes.lower, other.model_.boxes.lower)
    kept = np.arange(600) % 3 > 0
    np.testing.assert_array_equal(
        small().fit(x, y, sample_weight=kept).model_.boxes.labels.size,
        small().fit(x[kept], y[kept]).model_.boxes.labels.size,
    )
    for wrong, words in ((-np.ones(600), "row 0 is -1"), (np.zeros(600), "zero"), ([1], "shape")):
        with pytest.raises(ValueError, match=words):
            small().fit(x, y, sample_weight=wrong)
    with pytest.raises(OptionError, match="class_weight"):
        small(class_weight={"other": 2}).fit(x, y)


# --- probabilities -----------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [0.0, 0.3])
def test_probabilities_agree_with_predictions_and_are_no_surer_than_right(held_out: float) -> None:
    x, y = WINE
    classifier = small(validation=held_out).fit(x[::2], y[::2])
    found = classifier.predict_proba(x)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(classifier.classes_[found.argmax(axis=1)], classifier.predict(x))
    assert (found > 0).all()


def test_sharpness_against_a_search() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3))
    p = np.exp(2.5 * scores)
    index = (rng.random(4000)[:, None] > np.cumsum(p / p.sum(axis=1, keepdims=True), 1)).sum(axis=1)
    assert sharpness(scores, np.minimum(index, 2)) == pytest.approx(2.5, rel=0.06)
    sure = sharpness(np.array([[0.0, -1.0]] * 8), np.zeros(8, int))  # 1 in 10 is allowed for
    assert sure == pytest.approx(np.log(9), rel=1e-3)


# --- options -----------------------------------------------------------------------------


def test_options_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = WINE
    classifier = small(width=20, templates=2, parts=2, n_jobs=1, verbose=1).fit(x, y)
    assert classifier.model_.boxes.width == 20 and classifier.model_.boxes.structure.n_parts == 2
    out = capsys.readouterr().out
    assert out.count(": margin ") == 2 and "nan" not in out
    with pytest.raises(OptionError, match="parameters of their own"):
        small(width=20, options={"width": 30}).fit(x, y)
    for wrong in (0, -2, 1.5):
        with pytest.raises(OptionError, match="n_jobs is"):
            small(n_jobs=wrong).fit(x, y)


# --- pipelines ---------------------------------------------------------------------------

APART: list[Any] = [
    StandardScaler(),
    QuantileTransformer(n_quantiles=10),
    SimpleImputer(),
    KBinsDiscretizer(4, encode="ordinal", quantile_method="averaged_inverted_cdf"),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    SelectKBest(k=3),
    FunctionTransformer(),
    make_pipeline(StandardScaler(), MinMaxScaler()),
    ColumnTransformer([("a", StandardScaler(), [0, 3]), ("b", "drop", slice(1, 2))], remainder=
                      "passthrough"),
    ColumnTransformer([("a", StandardScaler(), [False, True, False, True, False])]),
]  # fmt: skip
NOT_APART: list[tuple[Any, str]] = [
    (PCA(2), "step PCA makes each column of several"),
    (OneHotEncoder(sparse_output=False), "step OneHotEncoder makes several columns of one"),
    (PolynomialFeatures(), "step PolynomialFeatures makes each column of several"),
    (SimpleImputer(add_indicator=True), "makes an indicator beside each column"),
    (KNNImputer(), "step KNNImputer makes each column of several"),
    (FunctionTransformer(np.cumsum, kw_args={"axis": 1}), "may mix columns"),
    (KBinsDiscretizer(3, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
     "makes several columns of one"),
    (ColumnTransformer([("a", "passthrough", [0, 1]), ("b", StandardScaler(), [1])]),
     "uses column 1 2 times"),
    (ColumnTransformer([("a", PCA(1), [0, 1])], remainder="passthrough"), "step PCA makes"),
    (make_pipeline(StandardScaler(), PCA(2)), "step PCA makes"),
]  # fmt: skip


def few() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 7, (60, 5)).astype(float)
    x[3, 4] = np.nan
    return x, (x[:, 0] + x[:, 1] > 6).astype(int)


@pytest.mark.parametrize("step", APART, ids=lambda step: type(step).__name__)
def test_steps_that_keep_columns_apart_do(step: Any) -> None:
    """Whoever rewrites one column changes one column at most, and no two change the same."""
    x, y = few()
    x[3, 4] = np.nan if isinstance(step, SimpleImputer) else 0.0
    before = step.fit(x, y).transform(x)
    check_apart(step)
    owners = []
    for column in range(5):
        other = x.copy()
        other[:, column] = np.random.default_rng(column).permutation(x[:, column])[::-1]
        changed = ~((before == step.transform(other)) | np.isnan(before)).all(axis=0)
        owners.append(changed)
    assert (np.sum(owners, axis=0) <= 1).all() and (np.sum(owners, axis=1) <= 1).all()
    pipeline = make_pipeline(step, small()).fit(x, y)
    radius = certified_radius(pipeline, x)
    np.testing.assert_array_equal(radius, pipeline[-1].certify(pipeline[:-1].transform(x)))
    score = certified_accuracy_scorer(1)(pipeline, x, y)
    assert score == ((pipeline.predict(x) == y) & (radius >= 1)).mean()


@pytest.mark.parametrize(("step", "words"), NOT_APART, ids=lambda each: type(each).__name__)
def test_steps_that_do_not_say_why(step: Any, words: str) -> None:
    x, y = few()
    x[3, 4] = np.nan if isinstance(step, SimpleImputer) else 0.0
    pipeline = make_pipeline(step, small()).fit(x, y)
    for call in (
        lambda: certified_radius(pipeline, x),
        lambda: certified_accuracy_scorer(1)(pipeline, x, y),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_steps_of_strangers_and_names_of_columns() -> None:
    class Scaler(StandardScaler):
        pass

    x, y = few()
    with pytest.raises(InputError, match="step Scaler is not known to keep columns apart"):
        certified_radius(make_pipeline(Scaler(), small()).fit(x[:, :4], y), x[:, :4])
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(x[:, :4], columns=list("abcd"))
    twice = ColumnTransformer([("x", "passthrough", slice("a", "c")), ("y", "passthrough", ["b"])])
    with pytest.raises(InputError, match="uses column 'b' 2 times"):
        certified_radius(make_pipeline(twice, small()).fit(frame, y), frame)
    pairs = [("x", StandardScaler(), slice("a", "b")), ("y", "passthrough", ["c"])]
    once = ColumnTransformer(pairs, remainder="passthrough")
    assert len(certified_radius(make_pipeline(once, small()).fit(frame, y), frame)) == 60
    plain = small().fit(frame, y)
    assert certified_radius(plain, frame).max() <= 4
    assert (
        certified_radius(plain, frame, attackable=["a"]) >= certified_radius(plain, frame)
    ).all()
    moved = make_pipeline(once, small()).fit(frame, y)
    for call in (
        lambda: certified_radius(moved, frame, attackable=["a"]),
        lambda: certified_accuracy_scorer(1, costs=[1.0] * 4)(moved, frame, y),
    ):
        with pytest.raises(InputError, match="is of the columns that the last step sees"):
            call()
    with pytest.raises(InputError, match="PCA has no certify"):
        certified_radius(PCA(), x)
