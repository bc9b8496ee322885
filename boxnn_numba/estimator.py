"""BoxNNClassifier: Box-NN as a scikit-learn estimator."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    _check_y,
    check_consistent_length,
    check_is_fitted,
    check_random_state,
    column_or_1d,
    validate_data,
)

from boxnn_numba import lazy, validation
from boxnn_numba.adversary import Adversary
from boxnn_numba.attacks.domain import domain_of
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import default_threads, limit_threads
from boxnn_numba.certificates import AUTO, KINDS, default_kind
from boxnn_numba.certificates.explanation import Explanation, column_importances, explain
from boxnn_numba.columns import Columns, category_places, headers, is_table
from boxnn_numba.distances import ensemble_distance
from boxnn_numba.errors import DivergenceError, InputError, OptionError
from boxnn_numba.grid import Grid, are_codes
from boxnn_numba.input_columns import columns_of, has_texts, is_default
from boxnn_numba.model import BoxNN
from boxnn_numba.pipeline_steps import last_step
from boxnn_numba.statistics import probabilities, sharpness
from boxnn_numba.training.augmentation import augmentation
from boxnn_numba.training.data import TrainingData, check_shape, frame_rows, rows_of
from boxnn_numba.training.initial_boxes import Seeds, even_shares, grown
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions, resolve
from boxnn_numba.training.result import members_of, outcome_of, trained_model
from boxnn_numba.training.rows import MemoryRows, Rows
from boxnn_numba.training.run import EpochRecord, Training, run_epochs
from boxnn_numba.training.search import Trial, check_radii, search, training_warnings
from boxnn_numba.training.weights import class_weight_text, row_weights

_MOST_BOXES = 2500
#: Training rows that the importances of columns are counted on.
_IMPORTANCE_ROWS = 200
#: Training rows that probabilities are fitted to where none are held out.
_CALIBRATION_ROWS = 10_000


class BoxNNClassifier(ClassifierMixin, BaseEstimator):
    """Box-NN as a scikit-learn classifier: predictions with a certified radius in columns.

    Parameters
    ----------
    preset
        ``"auto"``: options that are not given are chosen by certified accuracy on rows held out of
        the training data, see `boxnn_numba.training.search`. Without a search: ``"graded"``,
        ``"accurate"``, ``"target"`` (needs `radius`) or ``"paper"``.
    boxes
        Most boxes, split evenly over the classes. By default the search chooses; without a search
        2,500. A class with fewer samples gets a box for each.
    epochs
        Passes of `fit` over the training data. By default the search chooses; without a search 8.
    radius
        Radius that preset ``"target"`` aims at.
    width, parts, templates
        Fields of the same name of `boxnn_numba.training.options.TrainingOptions`; by default those
        of the preset.
    options
        Other fields of `boxnn_numba.training.options.TrainingOptions`, as a dict. Without
        ``alpha`` the initial boxes are as large as the room between the classes allows, at most
        0.1.
    validation
        Fraction of the training data kept apart to select the best epoch; by default none, and
        the last epoch counts.
    random_state
        Seed, a RandomState, or None for a random seed.
    device
        Where to train, as for `get_backend`: ``"cpu"``, ``"cuda"`` or ``"auto"``.
    categorical_features
        Which columns are categories. ``"from_dtype"``: columns of a categorical type in a pandas or
        polars frame, and columns of texts that are not all numbers, booleans or dates. A list of
        names, positions or booleans adds further columns. None: all columns must be numbers.
    class_weight
        None, ``"balanced"``, or a dict of weights by label. Options and epochs are chosen by
        accuracies with the same weights.
    effort
        Factor of the training steps of the search of preset ``"auto"``, and so of its time.
    radii
        Radii that matter to you, such as ``(1, 2, 4)``: the search of preset ``"auto"`` chooses the
        options with the highest mean certified accuracy at these radii, whatever accuracy that
        costs. By default radii 0, 1, 2 and 4 count, and at most three points of accuracy are given
        up.
    n_jobs
        Threads; None or -1 for all cores.
    verbose
        Above 0, print the trials of the search, the figures of every epoch, and a warning for a
        class that is hardly predicted.

    Attributes
    ----------
    classes_ : (K,) ndarray
        Class labels.
    columns_ : Columns or None
        Name, kind, categories and missing values of each column, of a frame or of an array with
        categories; None for an array of numbers.
    model_ : BoxNN
        The trained model, which `boxnn_numba.save_model` takes.
    column_importances_ : (n,) ndarray
        How often each column is part of the smallest change found that gives a training row another
        prediction, 0..1. They are computed on first access, from 200 rows spread over the training
        data, and show which columns an adversary uses. Their sum is the mean number of columns of a
        change. For other rows use ``model_.column_importances(x)``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : (n,) ndarray of str
        Names of the features, where `fit` saw a data frame.

    Notes
    -----
    Features are numbers of any type; each is binned by quantiles of the training data (`Grid`), so
    nothing needs to be scaled. One exception: an uint8 array that spans at least half of 0..255 is
    taken as codes, as images are. A classifier fitted on codes predicts any type of
    whole numbers 0..255, and raises for others; one fitted on other numbers takes any.

    Frames of pandas and polars may hold texts, booleans and dates, and any cell may be missing
    (NaN). One column is one feature and one unit of the radius, whatever its kind: whoever rewrites
    it may write any category, one that training did not see, or nothing. A frame is matched by
    name, in any order of its columns; a column that is missing or unknown is an error. `model_`
    matches frames in the same way. It takes an array of numbers as raw values (`Columns.values`),
    and no cells, so pass frames to it.

    The certified radius counts columns that the classifier sees. In a Pipeline it counts raw
    columns if the steps before map each column on its own (scaling, imputing); where they mix them
    (PCA) `certified_radius` and the scorer raise and say why.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import train_test_split
    >>> from boxnn_numba import BoxNNClassifier
    >>> x, y = load_breast_cancer(return_X_y=True)
    >>> x, x_test, y, y_test = train_test_split(x, y, stratify=y, random_state=0)
    >>> classifier = BoxNNClassifier().fit(x, y)
    >>> classifier.score(x_test, y_test) > 0.9, int(np.median(classifier.certify(x_test))) >= 4
    (True, True)
    """

    columns_: Columns | None = None
    _settings: TrainingOptions
    _names: list[Any]

    def __init__(
        self,
        preset: str = "auto",
        boxes: int | None = None,
        epochs: int | None = None,
        radius: int | None = None,
        options: dict[str, Any] | None = None,
        validation: float = 0.0,
        random_state: Any = 0,
        device: str = "auto",
        *,
        width: int | None = None,
        parts: Any = None,
        templates: Any = None,
        categorical_features: Any = "from_dtype",
        class_weight: Any = None,
        effort: float = 1.0,
        radii: Sequence[int] | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.preset = preset
        self.boxes = boxes
        self.epochs = epochs
        self.radius = radius
        self.options = options
        self.validation = validation
        self.random_state = random_state
        self.device = device
        self.width = width
        self.parts = parts
        self.templates = templates
        self.categorical_features = categorical_features
        self.class_weight = class_weight
        self.effort = effort
        self.radii = radii
        self.n_jobs = n_jobs
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Return the tags for scikit-learn, which say that missing values are allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # --- training -----------------------------------------------------------------------

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> BoxNNClassifier:
        """Train on (n_samples, n_features) cells and (n_samples,) labels.

        Parameters
        ----------
        X
            An array of numbers, or a pandas or polars frame of any cells; NaN where one is missing.
            Arrays and frames of Dask, memory maps and Zarr arrays are read block by block into a
            temporary file of codes, and never whole.
        y
            Integers, strings or booleans.
        sample_weight
            (n_samples,) numbers of at least 0: how much each row counts.

        Returns
        -------
        BoxNNClassifier
            This classifier, fitted.

        Raises
        ------
        ValueError
            The data are infinite, do not fit, or hold one class only; an option is out of range.

        Warns
        -----
        ConvergenceWarning
            Training diverged; the boxes of the last good epoch are kept.
        """
        check_radii(self.preset, self.radii)
        streams = self._streams(X)
        samples: Any = X
        if streams:
            samples = samples.data if lazy.is_labelled(X) else X
            labels = self._checked_labels(y)
            if not lazy.is_frame(samples):
                check_shape("X", samples)
                if len(samples.shape) > 2:
                    raise InputError(f"X has shape {samples.shape}; pass (samples, features)")
                if samples.shape[0] == samples.shape[0]:  # else it is not known yet
                    check_consistent_length(samples, labels)
        else:
            samples, labels = self._checked(X, y, reset=True)
        if sample_weight is not None:
            validation.unmasked_labels("sample_weight", sample_weight)
            sample_weight = _check_sample_weight(sample_weight, labels)
        check_radii(self.preset, self.radii, samples.shape[1])
        classes, index = np.unique(labels, return_inverse=True)
        self._begin(classes, samples.shape[1], self.preset)
        with ExitStack() as spools:
            rows = self._read(samples, len(labels), spools) if streams else MemoryRows(samples)
            data = TrainingData(
                rows, index, self._names, (rows.n_features,), self.columns_, spools, name="X"
            )
            feed, grid = data.feed(self._settings, sample_weight=sample_weight, strict=True)
            trial = None
            if self.preset == "auto":
                self._settings, trial = search(
                    feed, len(classes), self._given, effort=self.effort,
                    radii=self.radii, categories=category_places(self.columns_),
                    threads=self._threads() or default_threads(),
                    on_trial=self._tell,
                )  # fmt: skip
            runs = self._train(feed, grid)
            if trial is None:
                self._calibrate(feed)
            else:
                self._sharpness = sharpness(trial.scores, trial.labels)
            if self._is_verbose:  # no warning: scikit-learn fits many models to compare them
                for text in training_warnings(outcome_of(runs, self.model_), self._names, trial):
                    sys.stdout.write(f"{text}\n")
        return self

    def _streams(self, X: Any) -> bool:
        """Return whether X is read block by block instead of into memory."""
        by_type = self.categorical_features is None or is_default(self.categorical_features)
        return lazy.is_deferred(X) and by_type

    def _read(self, X: Any, n_labels: int, spools: ExitStack) -> Rows:
        """Return samples that are not in memory as rows, and fix the columns."""
        self.__dict__.pop("feature_names_in_", None)
        self.columns_ = None
        if lazy.is_frame(X):
            rows, self.columns_ = frame_rows(X, spools)
            self.feature_names_in_ = np.array(self.columns_.names, dtype=object)
        else:
            rows = rows_of("X", X, spools)
        check_consistent_length(rows, range(n_labels))
        self.n_features_in_ = rows.n_features
        return rows

    def _tell(self, trial: Trial) -> None:
        """Print a trial of the search if `verbose` is above 0."""
        if self._is_verbose:
            sys.stdout.write(f"{trial}\n")

    def _tell_epoch(self, run: Training, found: EpochRecord | DivergenceError) -> None:
        """Print the figures of an epoch if `verbose` is above 0; warn if training diverged."""
        if isinstance(found, DivergenceError):
            warnings.warn(
                f"{str(found).split(';')[0]}; the boxes of epoch {run.best_epoch} are used; lower "
                f"the learning rate with options={{'lr': {run.options.lr / 4:g}}}",
                ConvergenceWarning,
                stacklevel=4,
            )
        elif self._is_verbose:
            told = f"epoch {found.epoch} of {run.options.epochs}, {found.seconds:.2f} s: "
            told += f"margin {found.margin:.3g}"
            if run.options.validation:
                told += f", held-out accuracy {found.accuracy:.3g}, mean certified radius "
                told += f"{found.mean_certified_radius:.3g}"
            sys.stdout.write(f"{told}\n")

    @property
    def _is_verbose(self) -> bool:
        return validation.integer("verbose", int(self.verbose), 0) > 0

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> BoxNNClassifier:
        """Continue training from the present boxes, with one pass over new data.

        Samples that the present boxes predict wrong become the centres of new boxes, up to `boxes`.
        The first call fixes the classes, the features with their categories, and the bins of
        numbers, so its data should be representative; after `fit` all of these are fixed already.
        The same calls in the same order give the same classifier. Moments of the optimiser are not
        carried over. Without `fit` there is no search: preset ``"auto"`` means ``"graded"``.

        Parameters
        ----------
        X, y
            As for `fit`; a batch may hold any of the classes.
        classes
            All labels that will occur; needed in the first call unless `fit` came before.

        Returns
        -------
        BoxNNClassifier
            This classifier, fitted.

        Raises
        ------
        ValueError
            As for `fit`, `classes` is missing or changes, or a label is not among them.

        Warns
        -----
        ConvergenceWarning
            Training diverged; the earlier boxes are kept unchanged, and new boxes stay at their
            initial positions.
        """
        check_radii(self.preset, self.radii)
        first = not hasattr(self, "model_")
        samples, labels = self._checked(X, y, reset=first)
        check_radii(self.preset, self.radii, samples.shape[1])
        if first:
            self.__dict__.pop("classes_", None)  # of a call that failed
        if _check_partial_fit_first_call(self, classes):
            # A search needs all rows.
            preset = "graded" if self.preset == "auto" else self.preset
            self._begin(self.classes_, samples.shape[1], preset)
        if self._settings.parts != "1":
            raise OptionError("boxes with `parts` are trained at once; use fit, or `parts` 1")
        index = self._class_index(labels)
        grid = _grid_for(samples, self.columns_, index) if first else self.model_.grid
        codes = _codes(samples, grid)
        call = self._calls + 1
        weights = row_weights(index, self._names, self._settings.class_weight)
        none = codes[:0], index[:0]
        seed = self._settings.seed + call
        feed = Feed.from_arrays(codes, index, none, seed, weights=weights)
        self._train(feed, grid, call)
        self._calibrate(feed)
        return self

    def _checked(self, X: ArrayLike, y: ArrayLike, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return raw values and labels of samples to train on; `reset` fixes the columns."""
        validation.unmasked("X", X)
        validation.unmasked_labels("y", y)
        if is_table(X) or has_texts(X):
            samples, labels = self._raw(X, reset), y
            check_consistent_length(samples, labels)
        else:
            samples, labels = validate_data(
                self, X, y, dtype="numeric", ensure_all_finite="allow-nan", reset=reset
            )
            samples = self._raw(samples, reset)
        return samples, self._checked_labels(labels)

    def _checked_labels(self, y: ArrayLike) -> np.ndarray:
        validation.unmasked_labels("y", y)
        labels = _check_y(np.asarray(y) if lazy.is_deferred(y) else y, estimator=self)
        if labels.dtype == object and len({isinstance(item, str) for item in labels}) > 1:
            raise InputError("y mixes strings and other labels; convert them to one type")
        check_classification_targets(labels)
        return np.asarray(labels)

    def _raw(self, X: Any, reset: bool = False) -> np.ndarray:
        """Return raw values of a table, or of an array that scikit-learn has checked."""
        if reset:
            self.columns_ = columns_of(X, self.categorical_features)
        if self.columns_ is None:
            return np.asarray(X)
        if reset:
            self.n_features_in_ = len(self.columns_)
            names = headers(X) if is_table(X) else []
            self.__dict__.pop("feature_names_in_", None)
            if names and all(isinstance(name, str) for name in names):
                self.feature_names_in_ = np.array(names, dtype=object)
        if is_table(X) or has_texts(X):
            return self.columns_.values(X if is_table(X) else np.asarray(X, dtype=object))
        # Numbers of an array are cells here, not raw values: 7 is the category "7".
        return self.columns_.values(dict(zip(self.columns_.names, np.asarray(X).T, strict=True)))

    def _class_index(self, y: np.ndarray) -> np.ndarray:
        """Return the class indices of labels."""
        known = {label: index for index, label in enumerate(self.classes_.tolist())}
        found, inverse = np.unique(y, return_inverse=True)
        for label in found.tolist():
            if label not in known:
                raise InputError(f"y holds {label!r}; pass all classes in the first call")
        return np.array([known[label] for label in found.tolist()])[inverse]

    def _begin(self, classes: np.ndarray, n_features: int, preset: str) -> None:
        """Fix the classes and options of a new classifier that has no boxes yet."""
        self.__dict__.pop("model_", None)
        if len(classes) < 2:
            raise InputError(
                f"y holds one class, {classes.tolist()}; a classifier needs two or more"
            )
        names = validation.labels("y", classes, len(classes)).tolist()
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        structure = {
            "width": self.width,
            "parts": None if self.parts is None else str(self.parts),
            "templates": self.templates,
        }
        own = {
            "boxes": self.boxes,
            "epochs": self.epochs,
            "radius": self.radius,
            "validation": self.validation,
            "seed": seed,
            "class_weight": class_weight_text(self.class_weight),
            **{name: value for name, value in structure.items() if value is not None},
        }
        given = {} if self.options is None else self.options
        if not isinstance(given, Mapping) or not own.keys().isdisjoint(given):
            raise OptionError(
                f"options are {given!r}; pass a dict without {', '.join(own)}, which are "
                "parameters of their own (seed is random_state)"
            )
        self._given = {k: v for k, v in {**given, **own}.items() if v is not None}
        if preset != "auto":
            self._given = {"boxes": max(_MOST_BOXES, len(classes)), **self._given}
        self._settings = resolve(preset, self._given)
        validation.groups(max(1, self._settings.group_size), (n_features,))
        augmentation((n_features,), None, self._settings, 1)  # refused: columns are no images
        self._seeds: list[Seeds] = []
        self._calls = 0
        self.classes_, self._names = classes, names

    def _train(self, feed: Feed, grid: Grid | None, call: int = 0) -> list[Training]:
        """Add boxes to the present ones, train all, and keep them; call 0 is that of `fit`.

        Returns the runs.
        """
        backend = get_backend(self.device, self._threads())
        wrong = np.ones(len(feed), bool)
        if self._seeds:
            scores = [self._scores(feed.load(window)) for window in range(len(feed.sizes))]
            wrong = np.concatenate(scores).argmax(axis=1) != feed.labels
        runs, weights = [], feed.class_weights(len(self.classes_))
        for number, member in enumerate(members_of(self._settings)):
            present = self._seeds[number] if self._seeds else Seeds.none(feed.n_features)
            seeds = self._grown(present, member, feed, wrong, weights, call)
            settings = replace(
                member,
                boxes=len(seeds.labels) if seeds else member.boxes,
                epochs=1 if call else member.epochs,
                seed=member.seed + call,
            )
            own = replace(feed, seed=settings.seed)
            runs.append(Training(settings, own, len(self.classes_), backend, start=seeds))
        # Without a rival there is nothing to learn yet.
        learning = [run for run in runs if len(np.unique(run.labels)) > 1]
        for run, found in run_epochs(learning, backend.threads):
            self._tell_epoch(run, found)
        for run in learning[-1:]:  # later calls go on with the clip that was chosen
            self._settings = replace(self._settings, beta=run.options.beta)
        history = {"preset": self.preset, "partial_fit_calls": call}
        self.model_: BoxNN = trained_model(
            runs, self._names, grid, (feed.n_features,), history, self.columns_
        )
        self._seeds, self._calls = [*map(_kept, runs)], call
        self._seen = feed.take(np.arange(0, len(feed), -(-len(feed) // _IMPORTANCE_ROWS)))
        self.__dict__.pop("_importances", None)
        return runs

    def _calibrate(self, feed: Feed) -> None:
        """Fit probabilities to held-out rows, or to training rows if none are held out."""
        count, first = sum(len(y) for _, y in feed.held_out()), 0
        step = -(-(count or len(feed)) // _CALIBRATION_ROWS)
        if count:
            parts = []
            for x, y in feed.held_out():
                rows = np.arange(-first % step, len(y), step)
                parts.append((x[rows], y[rows]))
                first += len(y)
            codes, index = (np.concatenate(part) for part in zip(*parts, strict=True))
        else:
            rows = np.arange(0, len(feed), step)
            codes, index = feed.take(rows), feed.labels[rows]
        known = np.diff(self.model_.boxes.offsets) > 0  # others have no probability in any case
        rows = known[index]
        self._sharpness = 1.0
        if rows.any() and known.sum() > 1:
            scores = self._scores(codes[rows])[:, known]
            self._sharpness = sharpness(
                np.ascontiguousarray(scores), np.cumsum(known)[index[rows]] - 1
            )

    def _threads(self) -> int | None:
        """Return the threads that `n_jobs` allows; None if `n_jobs` is None."""
        if self.n_jobs is None:
            return None
        jobs = validation.integer("n_jobs", self.n_jobs, -1)
        if jobs == 0:
            raise OptionError("n_jobs is 0; pass a number of threads, or -1 for all cores")
        return default_threads() if jobs < 0 else jobs

    def _grown(
        self,
        present: Seeds,
        member: TrainingOptions,
        feed: Feed,
        wrong: np.ndarray,
        weights: np.ndarray,
        call: int,
    ) -> Seeds | None:
        """Return present boxes and new ones at wrong samples; None for the usual initial boxes."""
        if member.relaxation == "additive":
            return None
        if not len(present.labels) and member.initialisation == "random":
            return None
        fits = (self.options or {}).get("alpha") is None
        half, seed = 255 * member.alpha, member.seed + call
        shares = even_shares(member.boxes, len(self.classes_), weights)
        return grown(present, feed, wrong, shares, half, fits, seed)

    # --- prediction ---------------------------------------------------------------------

    def _rows(self, X: ArrayLike) -> np.ndarray:
        """Return samples as the raw values or codes that `model_` takes."""
        check_is_fitted(self, "model_")
        validation.unmasked("X", X)
        if self.columns_ is not None and (is_table(X) or has_texts(X)):
            return self._raw(X)
        samples = validate_data(
            self, X, reset=False, dtype="numeric", ensure_all_finite="allow-nan",
            ensure_min_samples=0,
        )  # fmt: skip
        return self._raw(samples)

    def _mapped(self, method: Any, X: Any, by_class: bool = False, **options: Any) -> Any:
        """Apply a method of this class to rows, lazily if they are lazy.

        Tasks get a copy without the attributes that only training needs.
        """
        check_is_fitted(self, "model_")
        answering = copy.copy(self)
        for name in ("_seeds", "_seen", "_importances"):
            answering.__dict__.pop(name, None)
        dims = {"class": self.classes_} if by_class else None
        return lazy.map_rows(method, answering, X, dims, **options)

    def __dask_tokenize__(self) -> Any:
        names = list(getattr(self, "feature_names_in_", []))
        fitted = getattr(self, "model_", None), getattr(self, "_sharpness", None)
        given = self.get_params(deep=False)
        return lazy.content("BoxNNClassifier", given, names, self.columns_, *fitted)

    def _distance(self, X: ArrayLike) -> np.ndarray:
        """Return the (N, K) int32 class distances of samples, in units."""
        if lazy.is_deferred(X):
            return self._mapped(BoxNNClassifier._distance, X, True)
        rows = self._rows(X)
        with limit_threads(self._threads()):
            return self.model_.class_distance(rows)

    def _scores(self, codes: np.ndarray) -> np.ndarray:
        """Return minus the class distances of codes, in features."""
        model = self.model_
        return -ensemble_distance(codes, model.box_sets, offset=model.offset) / model.reach

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the (n_samples,) predicted labels.

        Lazy samples (see `BoxNN.encode`) give lazy labels; likewise for `decision_function`,
        `predict_proba` and `certify`.
        """
        return self._mapped(BoxNNClassifier._nearest, self._distance(X))

    def _nearest(self, distance: np.ndarray) -> np.ndarray:
        return np.asarray(self.classes_[distance.argmin(axis=1)])

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return minus the class distances, in features.

        Returns
        -------
        ndarray
            (n_samples, n_classes); for two classes (n_samples,), the distance to the first class
            minus that to the second, which is positive where the second is predicted.
        """
        distance = self._distance(X)
        return self._mapped(BoxNNClassifier._decision, distance, len(self.classes_) > 2)

    def _decision(self, distance: np.ndarray) -> np.ndarray:
        scores = -distance / self.model_.reach
        return np.asarray(scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return the (n_samples, n_classes) probabilities of the classes.

        They are a softmax of `decision_function`. Its sharpness is fitted to the rows that
        `validation` held out; without held-out rows to training rows, which makes the probabilities
        overconfident. Probabilities are not certified: within the radius of a sample its most
        probable class stays the same, but its probability may change.
        """
        return self._mapped(BoxNNClassifier._softmax, self._distance(X), True)

    def _softmax(self, distance: np.ndarray) -> np.ndarray:
        return probabilities(-distance / self.model_.reach, self._sharpness)

    def explain(
        self,
        X: ArrayLike,
        time_limit: float = 5.0,
        *,
        attackable: Any = None,
        costs: Any = None,
    ) -> list[Explanation]:
        """Explain predictions: nearest boxes in raw values, costs of columns, smallest changes.

        Parameters
        ----------
        X
            (n_samples, n_features) samples.
        time_limit
            Seconds for each sample to prove that no change is smaller than the one found; 0 skips
            the proof.
        attackable
            The only columns that may change, by name or number; all by default.
        costs
            A positive number for each column, or a mapping from names to numbers. Changes are then
            compared by cost, and radii are budgets.

        Returns
        -------
        list of boxnn_numba.certificates.Explanation
            One explanation for each sample; print it for a readable text.
        """
        rows = self._rows(X)
        names = getattr(self, "feature_names_in_", None)
        with limit_threads(self._threads()):
            return explain(self.model_, rows, names, time_limit, attackable=attackable, costs=costs)

    @property
    def column_importances_(self) -> np.ndarray:
        """(n,) how often each column is part of a smallest change of a training row."""
        check_is_fitted(self, "model_")
        if not hasattr(self, "_importances"):
            domain = domain_of(self.model_)
            columns = np.arange(self._seen.shape[1])
            rows = self._seen if domain.values is None else domain.values[columns, self._seen]
            with limit_threads(self._threads()):
                self._importances = column_importances(self.model_, rows)
        return self._importances

    def certify(
        self,
        X: ArrayLike,
        certificate: str = "pairwise",
        attackable: Any = None,
        costs: Any = None,
        time_limit: float = 60.0,
    ) -> np.ndarray:
        """Return the (n_samples,) certified radii: how many columns may change arbitrarily.

        Parameters
        ----------
        X
            Samples, as for `predict`.
        certificate
            ``"margin"``, ``"pairwise"`` or ``"exact"``: each gives radii at least as large as the
            one before, and is slower. ``"auto"`` is ``"pairwise"`` here.
        attackable
            The only columns that may change, by name or number; all by default. A radius equal to
            their number means that no change of them changes the prediction.
        costs
            A positive number for each column, or a mapping from names to numbers: the radii are
            then budgets (float64).
        time_limit
            Seconds for each sample of the exact certificate.

        Raises
        ------
        ValueError
            A column is unknown or has no cost, a cost is not above 0, or the samples do not fit.
        """
        return self._certificate(X, certificate, attackable, costs, time_limit)[1]

    def _certificate(
        self, X: ArrayLike, certificate: str, attackable: Any, costs: Any, time_limit: float = 60.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return class indices and radii."""
        if certificate == "patch":
            raise OptionError(
                "certificate patch is for images, and a BoxNNClassifier takes columns; train with "
                "`boxnn_numba.fit` and use `BoxNN.certify`"
            )
        known = (*(kind for kind in KINDS if kind != "patch"), AUTO)
        validation.choice("certificate", certificate, known)
        if certificate == AUTO:
            check_is_fitted(self, "model_")
            certificate = default_kind(self.model_)
        validation.real("time_limit", time_limit, 0, open_low=True)
        who = {"attackable": attackable, "costs": costs}
        if certificate == "margin":
            return self._mapped(BoxNNClassifier._margins, self._distance(X), **who)
        kind = {"certificate": certificate, "time_limit": time_limit, **who}
        if lazy.is_deferred(X):
            return self._mapped(BoxNNClassifier._certificate, X, **kind)
        rows, model = self._rows(X), self.model_
        with limit_threads(self._threads()):
            # Where no rival has a box yet, all features may change.
            index, radius = self._margins(model.class_distance(rows), **who)
            if len(np.unique(model.boxes.labels)) > 1:
                radius = model.certify(rows, **kind).radius
        return index, radius

    def _margins(
        self, distance: np.ndarray, attackable: Any, costs: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        adversary = Adversary.of(self.model_, attackable, costs)
        return self.model_.radii(distance, adversary=adversary)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy: the weighted fraction of samples that are predicted right.

        Samples are as for `predict`; labels and weights may be lazy too.
        """
        validation.unmasked_labels("y", y)
        validation.unmasked_labels("sample_weight", sample_weight)
        predicted = np.asarray(self.predict(X))
        weights = None if sample_weight is None else np.asarray(sample_weight)
        return float(accuracy_score(column_or_1d(y), predicted, sample_weight=weights))

    def certified_score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        radius: float,
        certificate: str = "pairwise",
        attackable: Any = None,
        costs: Any = None,
        *,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Return the certified accuracy: the fraction of samples right and certified at `radius`.

        Other parameters are as for `certify`, and weights as for `score`; with `costs` the radius
        is a budget.

        Raises
        ------
        InputError
            Labels are texts and those of the training data are not, or the other way round; weights
            are not as many as samples, below 0, or all 0.
        OptionError
            `radius` is not a whole number (a number, with costs) of at least 0.
        """
        if costs is None:
            radius = validation.integer("radius", radius, 0)
        else:
            radius = validation.real("radius", radius, 0)
        validation.unmasked_labels("y", y)
        index, radii = lazy.in_memory(*self._certificate(X, certificate, attackable, costs))
        right = validation.outcomes(self.classes_[index], radii, column_or_1d(y))
        won = (right[0] == right[2]) & (radii >= radius)
        if sample_weight is None:
            return float(np.mean(won))
        weights = validation.sample_weight(sample_weight, len(won))
        if not weights.any():
            raise InputError("`sample_weight` is 0 for all rows; pass some weight above 0")
        return float(np.average(won, weights=weights))


def certified_accuracy_scorer(
    radius: float, certificate: str | None = None, attackable: Any = None, costs: Any = None
) -> Callable[..., float]:
    """Return a scorer of certified accuracy at a radius, for GridSearchCV and the like.

    Parameters
    ----------
    radius
        Number of columns that may change.
    certificate, attackable, costs
        As for `BoxNNClassifier.certify`; by default as the estimator does.

    Returns
    -------
    callable
        Takes a `BoxNNClassifier` (or another estimator with ``certified_score``), or a Pipeline
        that ends in one, samples and labels, and ``sample_weight`` by name.

    Raises
    ------
    OptionError
        `radius` is not a whole number (a number, with costs) of at least 0.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> from boxnn_numba import BoxNNClassifier
    >>> from boxnn_numba.estimator import certified_accuracy_scorer
    >>> x, y = load_wine(return_X_y=True)
    >>> classifier, scorer = BoxNNClassifier("graded", epochs=2), certified_accuracy_scorer(1)
    >>> scores = cross_val_score(classifier, x, y, scoring=scorer)
    >>> bool(scores.mean() > 0.6)
    True
    """
    if costs is None:
        radius = validation.integer("radius", radius, 0)
    kind = {"certificate": certificate, "attackable": attackable, "costs": costs}
    given = {name: value for name, value in kind.items() if value is not None}
    return partial(_certified_score, radius=radius, **given)


def _certified_score(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    radius: float,
    sample_weight: ArrayLike | None = None,
    **kind: Any,
) -> float:
    if sample_weight is not None:
        kind["sample_weight"] = sample_weight
    last, samples = last_step(
        estimator, X, attackable=kind.get("attackable"), costs=kind.get("costs")
    )
    if not hasattr(last, "certified_score"):
        raise InputError(f"{type(last).__name__} has no certified_score; score a BoxNNClassifier")
    return float(last.certified_score(samples, y, radius, **kind))


def certified_radius(
    estimator: Any, X: ArrayLike, certificate: str = "pairwise", **kind: Any
) -> np.ndarray:
    """Return certified radii in raw columns, for a `BoxNNClassifier` or a Pipeline ending in one.

    Parameters
    ----------
    estimator
        The fitted estimator.
    X
        (n_samples, n_features) samples, as for `predict` of the estimator.
    certificate, **kind
        As for `BoxNNClassifier.certify`.

    Returns
    -------
    (n_samples,) ndarray of int
        Columns of X that may be rewritten arbitrarily without changing the prediction.

    Raises
    ------
    InputError
        A step makes one column from several, or several from one, so that a radius behind it says
        nothing about the columns before it; or `attackable` or `costs` are given for a pipeline.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from boxnn_numba import BoxNNClassifier
    >>> from boxnn_numba.estimator import certified_radius
    >>> x, y = load_wine(return_X_y=True)
    >>> scaled = make_pipeline(StandardScaler(), BoxNNClassifier("graded", epochs=2)).fit(x, y)
    >>> certified_radius(scaled, x).shape
    (178,)
    >>> mixed = make_pipeline(PCA(), BoxNNClassifier("graded", epochs=2)).fit(x, y)
    >>> certified_radius(mixed, x)
    Traceback (most recent call last):
        ...
    boxnn_numba.errors.InputError: step PCA makes each column of several, so radii behind it say \
nothing of raw columns; certify without it
    """
    last, samples = last_step(
        estimator, X, attackable=kind.get("attackable"), costs=kind.get("costs")
    )
    if not hasattr(last, "certify"):
        raise InputError(f"{type(last).__name__} has no certify; pass a BoxNNClassifier")
    return np.asarray(last.certify(samples, certificate=certificate, **kind))


def _grid_for(X: np.ndarray, columns: Columns | None, index: np.ndarray) -> Grid | None:
    """Return the grid of training data of some classes; None where they are codes."""
    return None if are_codes(X) else Grid.fit(X, columns=columns, y=index, missing=True)


def _codes(X: np.ndarray, grid: Grid | None) -> np.ndarray:
    return validation.codes("X", X) if grid is None else grid.encode(X)


def _kept(run: Training) -> Seeds:
    """Return the boxes from which later calls continue."""
    # The exact bounds, where they are those of the best epoch: small steps add up over calls.
    state = run.trainer.state()
    exact = run.best_epoch == run.epoch
    if run.options.relaxation == "additive":  # their parts rule out later calls
        return Seeds.none(run.n_features)
    lower, upper = (state["master_lower"], state["master_upper"]) if exact else run.best
    return Seeds((lower.astype(np.float32), upper.astype(np.float32)), run.labels)
