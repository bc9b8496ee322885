"""CertifiedAccuracyDisplay: curves on real figures, as scikit-learn's displays behave."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import boxnn_numba
from boxnn_numba import BoxNNClassifier, certified_accuracy
from boxnn_numba.certificates.margin import balanced_certified_accuracy
from boxnn_numba.display import CertifiedAccuracyDisplay
from boxnn_numba.errors import InputError

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def figures() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_classification(120, 6, weights=[0.8], random_state=0)
    return x, np.array(["no", "yes"])[y]


@pytest.fixture(scope="module")
def classifier(table: tuple[np.ndarray, np.ndarray]) -> BoxNNClassifier:
    return BoxNNClassifier(preset="graded", boxes=8, epochs=1).fit(*table)


def test_a_curve_of_an_estimator_in_steps_with_the_constant(
    classifier: BoxNNClassifier, table: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = table
    display = CertifiedAccuracyDisplay.from_estimator(classifier, x, y)
    radius = classifier.certify(x)
    outcome = classifier.predict(x), radius, y
    radii = np.arange(radius[outcome[0] == y].max() + 1)
    np.testing.assert_array_equal(display.radii, radii)
    np.testing.assert_allclose(display.certified_accuracy, certified_accuracy(*outcome, radii))
    assert display.line_.get_drawstyle() == "steps-post"
    assert display.line_.get_ydata()[-1] == 0 and len(display.line_.get_xdata()) == len(radii) + 1
    assert display.line_.get_label().startswith("BoxNNClassifier (mean radius = ")
    assert display.majority == (y == "no").mean()
    assert set(display.majority_.get_ydata()) == {display.majority}
    assert display.ax_.get_ylabel() == "Certified accuracy"
    assert display.figure_ is display.ax_.figure and display.ax_.get_legend() is not None


def test_several_share_axes_and_one_line_of_the_constant(
    classifier: BoxNNClassifier, table: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = table
    first = CertifiedAccuracyDisplay.from_estimator(classifier, x, y, name="one")
    model = classifier.model_
    second = CertifiedAccuracyDisplay.from_estimator(
        model, x, y, name="two", certificate="pairwise", ax=first.ax_, color="red"
    )
    again = second.plot(first.ax_, name="three", plot_majority=False)
    assert again is second and second.ax_ is first.ax_ and second.majority_ is None
    assert len(first.ax_.lines) == 4
    names = [text.get_text().split(" (")[0] for text in first.ax_.get_legend().get_texts()]
    assert names == ["one", "Always one class", "two", "three"]
    assert first.ax_.get_xlim()[1] == len(second.radii)


def test_balanced_counts_classes_alike(table: tuple[np.ndarray, np.ndarray]) -> None:
    y = table[1]
    prediction, radius = np.full(len(y), "no"), np.full(len(y), 3)
    display = CertifiedAccuracyDisplay.from_predictions(
        y, prediction, radius, balanced=True, majority_kw={"color": "green"}
    )
    assert display.radii.tolist() == [0, 1, 2, 3]
    expected = balanced_certified_accuracy(prediction, radius, y, range(4))
    np.testing.assert_allclose(display.certified_accuracy, expected)
    assert display.majority == 0.5 and display.majority_.get_color() == "green"
    assert display.ax_.get_ylabel() == "Balanced certified accuracy"
    assert display.line_.get_label().startswith("Classifier")


def test_a_pipeline_is_certified_after_its_steps(table: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = table
    steps = make_pipeline(StandardScaler(), BoxNNClassifier(preset="graded", boxes=8, epochs=1))
    display = CertifiedAccuracyDisplay.from_estimator(steps.fit(x, y), x, y)
    assert display.certified_accuracy[0] == pytest.approx(steps.score(x, y))


def test_refused_in_one_line(table: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = table
    with pytest.raises(InputError, match="LogisticRegression has no certify"):
        CertifiedAccuracyDisplay.from_estimator(LogisticRegression().fit(x, y), x, y)
    with pytest.raises(InputError, match="one length"):
        CertifiedAccuracyDisplay.from_predictions([0, 1], [0], [1])
    with pytest.raises(InputError, match="no samples"):
        CertifiedAccuracyDisplay.from_predictions([], [], [])


def test_the_public_name() -> None:
    assert boxnn_numba.CertifiedAccuracyDisplay is CertifiedAccuracyDisplay
