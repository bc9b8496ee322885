"""Pipeline steps of scikit-learn: whether they keep columns apart, so that radii stay valid.

A radius counts columns that the last step sees. It counts raw columns, too, where each of those is
made of one raw column, and no raw column makes two: whoever rewrites r raw columns then rewrites at
most r of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline

from boxnn_numba.errors import InputError

#: Transformers that map each column on its own, one to one.
_APART = (
    "Binarizer", "FunctionTransformer", "KBinsDiscretizer", "MaxAbsScaler", "MinMaxScaler",
    "OrdinalEncoder", "PowerTransformer", "QuantileTransformer", "RobustScaler", "SimpleImputer",
    "StandardScaler", "TargetEncoder",
)  # fmt: skip
_SPREAD = "makes several columns of one, so rewriting one raw column rewrites all of them"
_MIXED = "makes each column of several, so radii behind it say nothing of raw columns"
#: What others do.
_PROBLEMS = {
    **dict.fromkeys(
        ("OneHotEncoder", "SplineTransformer", "MultiLabelBinarizer", "FeatureUnion"), _SPREAD
    ),
    **dict.fromkeys(
        ("PCA", "IncrementalPCA", "KernelPCA", "TruncatedSVD", "FastICA", "NMF", "Normalizer",
         "PolynomialFeatures", "KNNImputer", "IterativeImputer"), _MIXED,
    ),
}  # fmt: skip


def last_step(estimator: Any, X: Any, **columns: Any) -> tuple[Any, Any]:
    """Return the last step of a pipeline, and samples as it sees them.

    Other estimators are their own last step. `columns` are arguments that name columns of the last
    step, as `attackable`.

    Raises
    ------
    InputError
        A step before it does not keep columns apart, or may give columns other names and places
        than `columns` have in mind.
    """
    for name, value in columns.items():
        if value is not None and isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
            raise InputError(
                f"`{name}` is of the columns that the last step sees, and steps before it may move "
                "or rename them; certify with the last step, of what pipeline[:-1] makes of X"
            )
    while isinstance(estimator, Pipeline):
        for _, step in estimator.steps[:-1]:
            check_apart(step)
        X = estimator[:-1].transform(X) if len(estimator.steps) > 1 else X
        estimator = estimator.steps[-1][1]
    return estimator, X


def check_apart(step: Any) -> None:
    """Raise `InputError` unless a fitted transformer makes at most one column of each column."""
    problem = _problem(step)
    if problem:
        name = type(step).__name__
        advice = "certify without it"
        if name == "OneHotEncoder":
            advice = "pass the categories as they are, or use OrdinalEncoder"
        raise InputError(f"step {name} {problem}; {advice}")


def _problem(step: Any) -> str:
    """Return the problem with a step; empty if it keeps columns apart."""
    if step is None or isinstance(step, str):  # passthrough, drop
        return ""
    if isinstance(step, Pipeline):
        for _, inner in step.steps:
            check_apart(inner)
        return ""
    if type(step) is ColumnTransformer:
        return _problem_of_columns(step)
    name, own = type(step).__name__, type(step).__module__.startswith("sklearn.")
    if own and isinstance(step, SelectorMixin):
        return ""
    if not own or name not in _APART:
        return _PROBLEMS.get(name, "is not known to keep columns apart")
    if name == "FunctionTransformer" and step.func is not None:
        return "may mix columns, as any function may"
    if name == "KBinsDiscretizer" and step.encode != "ordinal":
        return _SPREAD
    if name == "SimpleImputer" and step.add_indicator:
        return "makes an indicator beside each column (`add_indicator`), which is two columns"
    if name == "TargetEncoder" and step.target_type_ == "multiclass":
        return _SPREAD
    return ""


def _problem_of_columns(step: ColumnTransformer) -> str:
    used = np.zeros(step.n_features_in_, np.int64)
    names = list(getattr(step, "feature_names_in_", ()))
    for _, inner, columns in step.transformers_:
        if isinstance(inner, str) and inner == "drop":
            continue
        check_apart(inner)
        np.add.at(used, _positions(columns, names, len(used)), 1)
    if used.max(initial=0) < 2:
        return ""
    at = int(used.argmax())
    return f"uses column {names[at] if names else at!r} {used[at]} times"


def _positions(columns: Any, names: list[str], count: int) -> np.ndarray:
    """Return the positions of columns that a ColumnTransformer is given in any form."""
    every = np.arange(count)
    if isinstance(columns, slice):
        ends = [columns.start, columns.stop]
        if any(isinstance(end, str) for end in ends):  # by label, both ends included
            first = 0 if ends[0] is None else names.index(ends[0])
            last = count - 1 if ends[1] is None else names.index(ends[1])
            return every[first : last + 1 : columns.step]
        return every[columns]
    given = np.atleast_1d(np.asarray(columns))
    if given.dtype.kind in "OU":
        return np.array([names.index(name) for name in given.tolist()], np.intp)
    return every[given] if given.size else every[:0]
