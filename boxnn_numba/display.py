"""CertifiedAccuracyDisplay: certified accuracy by radius, drawn as scikit-learn draws curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import column_or_1d

from boxnn_numba import validation
from boxnn_numba.certificates.margin import (
    balanced_certified_accuracy,
    certified_accuracy,
    majority,
)
from boxnn_numba.errors import InputError
from boxnn_numba.pipeline_steps import last_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CONSTANT = "boxnn-majority"


class CertifiedAccuracyDisplay:
    """Certified accuracy by radius; made by `from_estimator` or `from_predictions`.

    Needs matplotlib.

    Parameters
    ----------
    certified_accuracy
        (R,) certified accuracy, 0..1, at radii 0, 1, ..., R - 1; it is 0 at larger radii.
    name
        Name in the legend; without a name there is no legend.
    majority
        Accuracy of the majority-class baseline, which always predicts the most frequent class and
        is certified at every radius. None if unknown.
    balanced
        Whether the curve and the baseline are balanced: all classes count alike.

    Attributes
    ----------
    ax_, figure_
        The axes and the figure in which the curve is drawn.
    line_
        The curve.
    majority_
        The line of the majority-class baseline; None where this display has not drawn it.

    Examples
    --------
    >>> from boxnn_numba.display import CertifiedAccuracyDisplay
    >>> display = CertifiedAccuracyDisplay.from_predictions(
    ...     ["a", "a", "b"], ["a", "a", "a"], [2, 1, 5], name="mine", plot_majority=False
    ... )
    >>> display.certified_accuracy, display.majority
    (array([0.66666667, 0.66666667, 0.33333333]), 0.6666666666666666)
    >>> display.line_.get_label()
    'mine (mean radius = 1.00)'
    """

    def __init__(
        self,
        *,
        certified_accuracy: ArrayLike,
        name: str | None = None,
        majority: float | None = None,
        balanced: bool = False,
    ) -> None:
        self.certified_accuracy = np.asarray(certified_accuracy, dtype=np.float64)
        self.name = name
        self.majority = majority
        self.balanced = balanced

    @property
    def radii(self) -> np.ndarray:
        """(R,) the radii 0, 1, ... of the curve."""
        return np.arange(len(self.certified_accuracy))

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        plot_majority: bool = True,
        majority_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> CertifiedAccuracyDisplay:
        """Draw the curve in steps, constant between one whole radius and the next.

        Parameters
        ----------
        ax
            Axes to draw in, such as those of another display; new axes by default.
        name
            Name in the legend; by default `name` of the display.
        plot_majority
            Whether to draw the majority-class baseline, unless these axes have that line.
        majority_kw
            Keyword arguments of its `matplotlib.axes.Axes.axhline`.
        **kwargs
            Keyword arguments of the curve's `matplotlib.axes.Axes.plot`.

        Returns
        -------
        CertifiedAccuracyDisplay
            This display.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        from matplotlib.ticker import MaxNLocator

        name = self.name if name is None else name
        given: dict[str, Any] = {"drawstyle": "steps-post"}
        if name is not None:
            mean = float(self.certified_accuracy[1:].sum())
            given["label"] = f"{name} (mean radius = {mean:.2f})"
        heights = np.append(self.certified_accuracy, 0.0)
        self.ax_, self.figure_ = ax, ax.figure
        (self.line_,) = ax.plot(np.arange(len(heights)), heights, **{**given, **kwargs})
        self.majority_ = self._plot_majority(majority_kw or {}) if plot_majority else None
        curves = [line for line in ax.lines if line.get_gid() != _CONSTANT]
        last = max(float(np.max(np.append(np.asarray(line.get_xdata()), 1))) for line in curves)
        ax.set(xlim=(0, last), ylim=(0, 1.02), xlabel="Certified radius")
        ax.set_ylabel(("Balanced certified" if self.balanced else "Certified") + " accuracy")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if any(handle.get_label() for handle in ax.get_legend_handles_labels()[0]):
            ax.legend(loc="upper right")
        return self

    def _plot_majority(self, given: Mapping[str, Any]) -> Any:
        """Draw the majority-class baseline where the axes lack it, and return its line."""
        if self.majority is None or any(
            line.get_gid() == _CONSTANT and np.ravel(line.get_ydata())[0] == self.majority
            for line in self.ax_.lines
        ):
            return None
        look = {"color": "0.45", "linestyle": "-.", "linewidth": 1.2, "gid": _CONSTANT}
        label = f"Always one class ({self.majority:.2f} at every radius)"
        return self.ax_.axhline(self.majority, **{**look, "label": label, **given})

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        certificate: str | None = None,
        balanced: bool = False,
        name: str | None = None,
        ax: Axes | None = None,
        plot_majority: bool = True,
        majority_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> CertifiedAccuracyDisplay:
        """Certify samples and draw the curve.

        Parameters
        ----------
        estimator
            A fitted `BoxNNClassifier`, a Pipeline that ends in one, a `BoxNN`, or anything with
            `predict` and a `certify` that returns radii, or predictions and radii.
        X, y
            Samples and their labels.
        certificate
            Which radii, as for the estimator's `certify`; its default otherwise.
        balanced
            Count all classes alike.
        name
            What the legend calls it; the name of the estimator's class by default.
        ax, plot_majority, majority_kw, **kwargs
            As for `plot`.

        Raises
        ------
        InputError
            The estimator has no certificates, or the labels do not fit.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from boxnn_numba import BoxNNClassifier
        >>> from boxnn_numba.display import CertifiedAccuracyDisplay
        >>> x, y = load_wine(return_X_y=True)
        >>> few, more = (BoxNNClassifier("graded", b, epochs=2).fit(x, y) for b in (3, 30))
        >>> display = CertifiedAccuracyDisplay.from_estimator(few, x, y, name="3 boxes")
        >>> display = CertifiedAccuracyDisplay.from_estimator(
        ...     more, x, y, name="30 boxes", ax=display.ax_
        ... )
        >>> len(display.ax_.lines)  # two curves and the baseline
        3
        """
        given = {} if certificate is None else {"certificate": certificate}
        prediction, radius = _certified(estimator, X, given)
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(
            y, prediction, radius, balanced=balanced, name=name, ax=ax,
            plot_majority=plot_majority, majority_kw=majority_kw, **kwargs,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        radius: ArrayLike,
        *,
        balanced: bool = False,
        name: str | None = None,
        ax: Axes | None = None,
        plot_majority: bool = True,
        majority_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> CertifiedAccuracyDisplay:
        """Draw the curve of predictions and their certified radii.

        Parameters
        ----------
        y_true, y_pred, radius
            (N,) labels, predicted labels, and certified radii, whole numbers of at least 0.
        balanced
            Count all classes alike.
        name
            What the legend calls it; "Classifier" by default.
        ax, plot_majority, majority_kw, **kwargs
            As for `plot`.

        Raises
        ------
        InputError
            The arrays are empty or differ in length, or a radius is none.
        """
        outcome = validation.outcomes(y_pred, radius, column_or_1d(y_true))
        prediction, radius, truth = outcome
        radii = np.arange(int(radius[prediction == truth].max(initial=0)) + 1)
        work = balanced_certified_accuracy if balanced else certified_accuracy
        curve, constant = work(*outcome, radii), majority(truth)
        display = cls(
            certified_accuracy=curve,
            name="Classifier" if name is None else name,
            majority=constant.balanced if balanced else constant.accuracy,
            balanced=balanced,
        )
        return display.plot(ax, plot_majority=plot_majority, majority_kw=majority_kw, **kwargs)


def _certified(estimator: Any, X: Any, given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and radii of samples."""
    estimator, X = last_step(estimator, X)
    if not hasattr(estimator, "certify"):
        raise InputError(f"{type(estimator).__name__} has no certify; pass a BoxNNClassifier")
    found = estimator.certify(X, **given)
    if isinstance(found, tuple):
        return np.asarray(found[0]), np.asarray(found[1])
    return np.asarray(estimator.predict(X)), np.asarray(found)
