"""What the classifier says of its predictions: explanations, and how often columns matter."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from boxnn_numba import BoxNNClassifier


def table(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A table whose label is the city, but for gaps, and two columns of noise."""
    rng = np.random.default_rng(seed)
    city = np.array(["Bonn", "Kiel"])[rng.integers(0, 2, 120)]
    cells = {"noise": rng.normal(size=120), "city": city, "more": rng.integers(0, 9, 120) * 1.0}
    cells["noise"][::11] = np.nan
    return cells, np.where(city == "Bonn", "yes", "no")


@pytest.fixture(scope="module")
def classifier() -> BoxNNClassifier:
    return BoxNNClassifier(boxes=20, epochs=4, width=32).fit(*table())


def test_a_prediction_is_told_by_name(classifier: BoxNNClassifier) -> None:
    cells, _ = table(1)
    some = {name: values[:3] for name, values in cells.items()}
    found = classifier.explain(some)
    assert [one.prediction for one in found] == classifier.predict(some).tolist()
    assert [c.name for c in found[0].columns] == list(cells)
    for one, city in zip(found, some["city"], strict=True):
        assert one.columns[1].value == city and one.radius <= 3
        if one.proven and one.becomes is not None:
            assert one.count == len(one.changes) == one.radius + 1
    assert "city" in str(found[0])


def test_an_array_has_the_names_of_features() -> None:
    cells, y = table()
    x = np.stack([np.nan_to_num(cells["noise"]), cells["city"] == "Kiel", cells["more"]], axis=1)
    plain = BoxNNClassifier(boxes=8, epochs=1).fit(x, y)
    assert [c.name for c in plain.explain(x[:1])[0].columns] == [f"feature {k}" for k in range(3)]
    assert plain.column_importances_.shape == (3,)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(x, columns=["a", "b", "c"])
    named = BoxNNClassifier(boxes=8, epochs=1).fit(frame, y)
    assert [c.name for c in named.explain(frame[:1])[0].columns] == ["a", "b", "c"]


def test_the_column_that_decides_is_in_most_smallest_changes(classifier: BoxNNClassifier) -> None:
    share = classifier.column_importances_
    assert share.argmax() == 1 and share[1] > 0.9 and (share >= 0).all() and (share <= 1).all()
    assert classifier.column_importances_ is share
    # These few rows are all of the training: the same as of their raw values.
    np.testing.assert_allclose(share, classifier.model_.column_importances(table()[0]))
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.column_importances_, share)


def test_unfitted() -> None:
    with pytest.raises(NotFittedError):
        BoxNNClassifier().explain([[1.0]])
    assert not hasattr(BoxNNClassifier(), "column_importances_")
