"""BoxNNClassifier as scikit-learn sees it, and what it computes against loops."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError, SkipTestWarning
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from support import reference

from boxnn_numba import BoxNNClassifier, fit, load_model, save_model
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.errors import DivergenceError, InputError, OptionError
from boxnn_numba.estimator import certified_accuracy_scorer, certified_radius
from boxnn_numba.training.run import EpochRecord, Training

IRIS = load_iris(return_X_y=True)
WINE = load_wine(return_X_y=True)


def small(**options: Any) -> BoxNNClassifier:
    return BoxNNClassifier(**{"preset": "graded", "epochs": 2, **options})


# --- scikit-learn's own checks -----------------------------------------------------------


#: A row of weight 2 is visited twice, and not in the order of two rows.
NOT_THE_SAME = {
    "check_sample_weight_equivalence_on_dense_data": "visits rows in another order",
}


@parametrize_with_checks(
    [BoxNNClassifier(effort=0.05), BoxNNClassifier("paper"), BoxNNClassifier("target", radius=1)],
    expected_failed_checks=lambda _: NOT_THE_SAME,
)
@pytest.mark.usefixtures("short_search")
def test_check_estimator(estimator: BoxNNClassifier, check: Any) -> None:
    check(estimator)


def test_no_check_is_skipped_but_for_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        results = check_estimator(
            BoxNNClassifier("graded", epochs=1), on_fail=None, expected_failed_checks=NOT_THE_SAME
        )
    assert len(results) > 40
    for result in results:
        if result["status"] not in ("passed", "xfail"):
            assert result["status"] == "skipped", result["check_name"]
            assert "pandas is not installed" in str(result["exception"])


# --- what it computes --------------------------------------------------------------------


@pytest.mark.parametrize("data", [IRIS, load_breast_cancer(return_X_y=True)])
def test_predictions_scores_and_radii_against_loops(data: Any) -> None:
    x, y = data
    names = np.array(["setosa", "versicolor", "virginica"], object)[y]
    classifier = small().fit(x, names)
    model, x = classifier.model_, x[::9]
    boxes, n_classes = model.boxes, len(classifier.classes_)
    distance = reference.class_distances(
        reference.distances(model.grid.encode(x), boxes.lower, boxes.upper, boxes.width),
        boxes.labels,
        n_classes,
    )
    expected = [reference.certificate(row, boxes.width) for row in distance]
    assert classifier.predict(x).tolist() == [classifier.classes_[p] for p, _ in expected]
    assert classifier.certify(x, certificate="margin").tolist() == [r for _, r in expected]
    assert (classifier.certify(x) >= classifier.certify(x, certificate="margin")).all()
    scores = -np.array(distance) / boxes.width
    if n_classes == 2:
        scores = scores[:, 1] - scores[:, 0]
    np.testing.assert_allclose(classifier.decision_function(x), scores)
    right = [
        classifier.classes_[p] == name for (p, _), name in zip(expected, names[::9], strict=True)
    ]
    pairwise = classifier.certify(x)  # the default, checked where it is computed
    for radius in range(6):
        count = sum(ok and r >= radius for ok, r in zip(right, pairwise, strict=True))
        assert classifier.certified_score(x, names[::9], radius) == count / len(x)
        assert certified_accuracy_scorer(radius)(classifier, x, names[::9]) == count / len(x)
    assert classifier.score(x, names[::9]) == classifier.certified_score(x, names[::9], 0)
    weights = np.arange(len(x)) % 3  # a row of weight 2 counts as if it were there twice
    twice = np.repeat(np.arange(len(x)), weights)
    for radius in (0, 1):
        found = classifier.certified_score(x, names[::9], radius, sample_weight=weights)
        expected = classifier.certified_score(x[twice], names[::9][twice], radius)
        assert found == pytest.approx(expected)
        scorer = certified_accuracy_scorer(radius)
        assert scorer(classifier, x, names[::9], sample_weight=weights) == found
    for wrong, words in ((weights - 1, "of row 0 is -1"), (0 * weights, "is 0 for all rows")):
        with pytest.raises(InputError, match=f"`sample_weight` {words}"):
            classifier.certified_score(x, names[::9], 0, sample_weight=wrong)


def test_no_attack_on_raw_columns_beats_a_radius() -> None:
    x, y = WINE
    classifier = BoxNNClassifier().fit(x, y)
    radius = classifier.certify(x)
    rng = np.random.default_rng(0)
    for _ in range(30):
        other = x[rng.permutation(len(x))] * rng.choice([1, 100, -1], (len(x), 1))
        order = rng.random(x.shape).argsort(axis=1)
        changed = np.where(order < radius[:, None], other, x)
        assert (classifier.predict(changed) == classifier.predict(x)).all()
    found = greedy_attack(classifier.model_, x)
    assert (found.changed > radius)[found.changed >= 0].all()


@pytest.mark.usefixtures("short_search")
def test_it_trains_as_fit_does_where_there_are_enough_samples() -> None:
    rng = np.random.default_rng(3)
    y = np.arange(300) % 3
    x = np.clip(80 * y[:, None] + rng.integers(0, 60, (300, 12)), 0, 255).astype(np.uint8)
    shared: dict[str, Any] = {"boxes": 20, "epochs": 2}
    other = fit(x, y, seed=4, alpha=0.1, validation=0.2, **shared)
    classifier = BoxNNClassifier(options={"alpha": 0.1}, random_state=4, validation=0.2, **shared)
    model = classifier.fit(x, y).model_
    np.testing.assert_array_equal(model.boxes.lower, other.boxes.lower)
    np.testing.assert_array_equal(model.boxes.upper, other.boxes.upper)
    assert model.training["history"][-1]["score"] == other.training["history"][-1]["score"]


def test_one_and_two_dimensions() -> None:
    x, y = make_moons(400, noise=0.1, random_state=0)
    parts = train_test_split(x, y, random_state=0)
    nearest = KNeighborsClassifier(1).fit(parts[0], parts[2]).score(parts[1], parts[3])
    assert BoxNNClassifier().fit(parts[0], parts[2]).score(parts[1], parts[3]) > nearest - 0.05
    one = BoxNNClassifier().fit(x[:, :1], y)
    assert one.score(x[:, :1], y) > 0.65


# --- its place in scikit-learn -----------------------------------------------------------


def test_grid_search_by_certified_accuracy() -> None:
    x, y = WINE
    grid = {"boxnnclassifier__options": [{"width": 60}, {"width": 255}]}
    pipeline = make_pipeline(StandardScaler(), small())
    search = GridSearchCV(pipeline, grid, scoring=certified_accuracy_scorer(1), cv=3).fit(x, y)
    assert search.best_params_["boxnnclassifier__options"] == {"width": 60}
    best = search.best_estimator_
    by_hand = best[-1].certified_score(best[0].transform(x), y, 1)
    assert search.score(x, y) == by_hand > 0.6
    assert certified_accuracy_scorer(0)(make_pipeline(small()).fit(x, y), x, y) > 0.9


def test_certified_accuracy_survives_scaling_of_columns() -> None:
    x, y = WINE
    radii = [
        make_pipeline(StandardScaler(), small()).fit(x, y)[-1].model_,
        small().fit(x, y).model_,
    ]
    np.testing.assert_array_equal(radii[0].boxes.lower, radii[1].boxes.lower)


def test_cross_validation() -> None:
    x, y = IRIS
    names = np.array(["a", "b", "c"])[y]
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    predicted = cross_val_predict(small(), x, names, cv=folds)
    scores = cross_val_score(small(), x, names, cv=folds)
    per_fold = [(predicted[test] == names[test]).mean() for _, test in folds.split(x, y)]
    np.testing.assert_allclose(scores, per_fold)
    values = cross_val_predict(small(), x, names, cv=folds, method="decision_function")
    assert values.shape == (150, 3) and (values.argmax(axis=1) == y).mean() > 0.9


def test_pickle_clone_and_model_files(tmp_path: Any) -> None:
    x, y = IRIS
    classifier = small(boxes=30).fit(x, np.array(["a", "b", "c"], object)[y])
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.decision_function(x), classifier.decision_function(x))
    again.partial_fit(x, again.classes_[y])
    fresh = clone(classifier)
    assert fresh.get_params() == classifier.get_params() and not hasattr(fresh, "model_")
    save_model(classifier.model_, tmp_path / "m.zarr")
    loaded = load_model(tmp_path / "m.zarr")
    np.testing.assert_array_equal(loaded.predict(x), classifier.predict(x))
    np.testing.assert_array_equal(
        loaded.certify(x, certificate="pairwise").radius, classifier.certify(x)
    )


def test_a_pipeline_through_skops(tmp_path: Any) -> None:
    """Nothing but types of this package has to be trusted, which the docs promise."""
    io = pytest.importorskip("skops.io")
    pipeline = make_pipeline(StandardScaler(), small(boxes=6, random_state=0)).fit(*IRIS)
    io.dump(pipeline, tmp_path / "pipeline.skops")
    types = io.get_untrusted_types(file=tmp_path / "pipeline.skops")
    assert all(name.startswith("boxnn_numba.") for name in types)
    again = io.load(tmp_path / "pipeline.skops", trusted=types)
    np.testing.assert_array_equal(
        certified_radius(again, IRIS[0]), certified_radius(pipeline, IRIS[0])
    )


def test_random_states() -> None:
    x, y = IRIS

    def bounds(state: Any) -> np.ndarray:
        return small(boxes=9, random_state=state).fit(x, y).model_.boxes.lower

    np.testing.assert_array_equal(bounds(3), bounds(np.int64(3)))
    np.testing.assert_array_equal(
        bounds(np.random.RandomState(1)), bounds(np.random.RandomState(1))
    )
    assert (bounds(3) != bounds(4)).any()
    assert (bounds(None) != bounds(None)).any()


def test_columns_of_many_kinds_in_a_pipeline() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    colours = np.where(rng.random(200) < 0.9, np.array(["red", "blue"])[y], "green")
    x = np.empty((200, 3), object)
    x[:, 0], x[:, 1], x[:, 2] = colours, rng.normal(size=200) + y, rng.integers(0, 9, 200)
    columns = ColumnTransformer(
        [("colour", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [0])],
        remainder="passthrough",
    )
    assert make_pipeline(columns, small()).fit(x, y).score(x, y) > 0.9


# --- errors ------------------------------------------------------------------------------


def test_unfitted() -> None:
    x, y = IRIS
    classifier = BoxNNClassifier()
    for call in (classifier.predict, classifier.certify, classifier.decision_function):
        with pytest.raises(NotFittedError):
            call(x)
    with pytest.raises(NotFittedError):
        classifier.certified_score(x, y, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "best"}, "unknown preset 'best'"),
        ({"preset": "target"}, "preset target needs a radius"),
        ({"boxes": 2}, "2, fewer than the 3 classes"),
        ({"boxes": 2.5}, "boxes is 2.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"validation": 1.5}, "validation is 1.5"),
        ({"radius": -1}, "radius is -1"),
        ({"random_state": -1}, "seed is -1"),
        ({"options": {"wide": 3}}, "unknown option 'wide'"),
        ({"options": {"boxes": 9}}, "without boxes, epochs, radius, validation, seed"),
        ({"options": [1]}, "pass a dict"),
        ({"options": {"width": 300}}, "width is 300"),
        ({"options": {"augment": 1}}, "`augment` needs images"),
        ({"options": {"mirror": 0.5}}, "`mirror` needs images"),
        ({"options": {"group_size": 3}}, "3 does not divide the 4 features"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_bad_parameters(arguments: dict[str, Any], words: str) -> None:
    classifier = BoxNNClassifier(**arguments)
    for call in (classifier.fit, lambda x, y: classifier.partial_fit(x, y, classes=[0, 1, 2])):
        with pytest.raises(OptionError, match=words) as caught:
            call(*IRIS)
        assert "\n" not in str(caught.value)
        with pytest.raises(NotFittedError):
            classifier.predict(IRIS[0])


@pytest.mark.parametrize("radius", [-1, 1.5, None, "two", True, [1]])
def test_bad_radii(radius: Any) -> None:
    classifier = small().fit(*IRIS)
    with pytest.raises(OptionError, match="radius is"):
        classifier.certified_score(*IRIS, radius)
    with pytest.raises(OptionError, match="radius is"):
        certified_accuracy_scorer(radius)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "graded", "radii": (1,)}, "what preset auto compares"),
        ({"radii": (-1,)}, "radii are"),
        ({"radii": (9,)}, "none can be above the 4 columns"),
    ],
)
def test_radii_are_checked_by_all_that_train(options: dict[str, Any], words: str) -> None:
    classifier = BoxNNClassifier(boxes=10, **options)
    for call in (classifier.fit, lambda x, y: classifier.partial_fit(x, y, [0, 1, 2])):
        with pytest.raises(OptionError, match=words):
            call(*IRIS)


@pytest.mark.parametrize("certificate", ["margin", "pairwise", "exact"])
def test_numbers_are_checked_by_all_certificates(certificate: str) -> None:
    classifier = small(boxes=10).fit(*IRIS)
    for model in (classifier, classifier.model_):
        for wrong in (-7, 0, np.nan):
            with pytest.raises(OptionError, match="time_limit is"):
                model.certify(IRIS[0][:2], certificate=certificate, time_limit=wrong)
    with pytest.raises(OptionError, match="chunk is -7"):
        classifier.model_.certify(IRIS[0][:2], certificate=certificate, chunk=-7)


def test_labels_of_another_type_are_not_all_wrong() -> None:
    x, y = IRIS
    classifier = small().fit(x, y)
    for call in (classifier.score, lambda *rows: classifier.certified_score(*rows, 0)):
        with pytest.raises(ValueError, match="label"):
            call(x, y.astype(str))
    assert classifier.certified_score(x, y.astype(float), 0) == classifier.score(x, y)


def test_a_scorer_of_other_classifiers() -> None:
    other = make_pipeline(StandardScaler(), KNeighborsClassifier()).fit(*IRIS)
    with pytest.raises(InputError, match="KNeighborsClassifier has no certified_score"):
        certified_accuracy_scorer(1)(other, *IRIS)


def test_divergence_is_a_warning_and_the_last_good_boxes_stay() -> None:
    x, y = WINE
    wild = BoxNNClassifier("graded", options={"lr": 3000.0, "schedule": "constant"}, epochs=20)
    with pytest.warns(ConvergenceWarning, match=r"diverged in epoch .* options=\{'lr': 750\}"):
        wild.fit(x, y)
    assert wild.predict(x).shape == y.shape


def test_the_other_sets_of_boxes_are_trained_where_one_diverges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_epoch = Training.run_epoch

    def diverge(self: Training, *given: Any, **more: Any) -> EpochRecord:
        if self.options.seed == 0 and self.epoch == 1:
            raise DivergenceError("training diverged in epoch 2: patched; lower `lr`")
        return run_epoch(self, *given, **more)

    monkeypatch.setattr(Training, "run_epoch", diverge)
    x, y = WINE
    three = BoxNNClassifier("graded", epochs=3, options={"members": 3, "lr": 0.5}, verbose=1)
    with pytest.warns(ConvergenceWarning, match="the boxes of epoch 1 are used") as caught:
        three.fit(x, y)
    assert len(caught) == 1 and len(three.model_.box_sets) == 3
    # The others as without it, one after the other.
    alone = BoxNNClassifier("graded", epochs=3, options={"members": 3, "lr": 0.5}, random_state=0)
    monkeypatch.setattr(Training, "run_epoch", run_epoch)
    for one, other in zip(three.model_.others, alone.fit(x, y).model_.others, strict=True):
        np.testing.assert_array_equal(one.lower, other.lower)


def test_certificates_by_name() -> None:
    x, y = load_iris(return_X_y=True)
    classifier = BoxNNClassifier("graded", boxes=12, epochs=1, random_state=0)
    with pytest.raises(NotFittedError):
        classifier.certify(x, "auto")
    classifier.fit(x, y)
    np.testing.assert_array_equal(classifier.certify(x, "auto"), classifier.certify(x))
    score = classifier.certified_score(x, y, 1, "auto")
    assert score == classifier.certified_score(x, y, 1)
    with pytest.raises(OptionError, match=r"certificate patch is for images.*`BoxNN.certify`"):
        classifier.certify(x, "patch")
    with pytest.raises(OptionError, match=r"unknown certificate 'paiwise'.*exact, auto"):
        classifier.certify(x, "paiwise")
