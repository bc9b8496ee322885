"""BoxNN: grid, boxes and classes; predict and certify."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import certificates, lazy, validation
from boxnn_numba.adversary import Adversary
from boxnn_numba.backends.devices import get_backend, on_gpu
from boxnn_numba.boxes import Boxes
from boxnn_numba.classifier import Certificate, group_count
from boxnn_numba.columns import MISSING, Columns, category_places, is_table
from boxnn_numba.distances import ensemble_distance
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.text import printable


@dataclass(frozen=True, eq=False, repr=False)
class BoxNN:
    """A classifier by the nearest box, with a certificate against sparse perturbations.

    Parameters
    ----------
    boxes
        The boxes, with K classes.
    classes
        K labels, integers or strings; class index c stands for ``classes[c]``.
    grid
        How real features are binned into codes; None if the data are codes.
    feature_shape
        Shape of one sample, e.g. (28, 28); (n,) by default.
    group_size
        Only for models of the first version of the file format: so many consecutive codes are
        rewritten together, and each has a cap of its own. Leave it at 1, and give groups to the
        boxes (``Boxes(group=)``).
    training
        Record of the training: options, seed, versions, dataset digest, history.
    others
        Further sets of boxes for the same features, classes and width, which make an ensemble. Its
        class distances are the sums of the class distances of all sets.
    offset
        (K,) integers in units, added to the class distances; zeros by default. A constant for each
        class does not change how far an adversary can move a distance, so certificates stay sound.
        Only differences count: offsets are stored with 0 as the smallest.
    columns
        Names and kinds of the features, if the training data were a table. Samples that are a table
        are then matched by name.

    Attributes
    ----------
    box_sets : tuple of Boxes
        All sets of boxes; one set unless the model is an ensemble.
    groups : (n,) int32 ndarray
        Number 0..G-1 of the group of each feature; radii count groups.
    reach : int
        Most units by which rewriting one group changes a class distance.

    Raises
    ------
    InputError
        Boxes, classes, grid, shapes, offsets or columns do not fit each other.

    Notes
    -----
    Theorem 4.2 needs only that rewriting a feature changes a class distance by at most W. The sum
    of E class distances changes by at most W E, so an ensemble is certified like boxes of width
    W E. Sums of integers need no rounding, as a mean would.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> boxes = Boxes([[0] * 9, [200] * 9], [[90] * 9, [255] * 9], labels=[0, 1], width=100)
    >>> model = BoxNN(boxes, classes=["dark", "bright"])
    >>> model.predict([[30] * 9, [210] * 9])
    array(['dark', 'bright'], dtype='<U6')
    >>> model.certify([[30] * 9]).radius
    array([4], dtype=int32)
    """

    boxes: Boxes
    classes: Sequence[int] | Sequence[str]
    grid: Grid | None = None
    feature_shape: tuple[int, ...] | None = None
    group_size: int = 1
    training: dict[str, Any] = field(default_factory=dict)
    others: tuple[Boxes, ...] = ()
    offset: np.ndarray = field(default=None)  # type: ignore[arg-type]
    columns: Columns | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "others", tuple(self.others))
        kind = self.boxes.n_features, self.boxes.n_classes, self.boxes.width
        for boxes in self.others:
            if (boxes.n_features, boxes.n_classes, boxes.width) != kind:
                raise InputError(
                    f"sets of boxes with (features, classes, width) {kind} and "
                    f"{(boxes.n_features, boxes.n_classes, boxes.width)} make no ensemble; they "
                    "must agree"
                )
            if (np.diff(boxes.offsets) > 0).tolist() != (np.diff(self.boxes.offsets) > 0).tolist():
                raise InputError("sets of boxes of an ensemble must have boxes of the same classes")
            if (boxes.group != self.boxes.group).any():
                raise InputError(
                    "sets of boxes of an ensemble must have the same groups of features"
                )
        if len(self.classes) != self.boxes.n_classes:
            raise InputError(
                f"there are {len(self.classes)} classes and boxes of {self.boxes.n_classes}; "
                "they must agree"
            )
        n = self.boxes.n_features
        shape = (n,) if self.feature_shape is None else tuple(self.feature_shape)
        if int(np.prod(shape)) != n:
            raise InputError(f"feature_shape {shape} does not hold the boxes' {n} features")
        if self.grid is not None and self.grid.n_features != n:
            raise InputError(f"the grid has {self.grid.n_features} features, the boxes {n}")
        self._check_columns()
        validation.positive("group_size", self.group_size)
        if self.group_size > 1 and any(
            boxes.structure.is_grouped or boxes.structure.n_parts > 1 for boxes in self.box_sets
        ):
            raise InputError("`group_size` is for boxes without groups or parts; pass 1")
        offset = validation.offsets("offset", self.offset, len(self.classes))
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "feature_shape", shape)
        object.__setattr__(self, "classes", list(self.classes))

    def _check_columns(self) -> None:
        if self.columns is None:
            return
        if self.grid is None or self.grid.n_features != len(self.columns):
            raise InputError(
                f"`columns` are {len(self.columns)} and the boxes have {self.boxes.n_features} "
                "features; columns need a grid of as many"
            )
        for column, count in zip(self.columns, self.grid.counts.tolist(), strict=True):
            if column.is_listed and len(column.categories) != count:
                raise InputError(
                    f"column {column.name!r} has {len(column.categories)} categories and the grid "
                    f"{count}; fit the grid with these columns"
                )

    def __dask_tokenize__(self) -> Any:
        # Of `training`, only the texts of missing cells affect answers.
        answers = [getattr(self, one.name) for one in fields(self) if one.name != "training"]
        return lazy.content("BoxNN", *answers, sorted(self.missing_texts))

    @property
    def box_sets(self) -> tuple[Boxes, ...]:
        """All sets of boxes."""
        return (self.boxes, *self.others)

    @cached_property
    def groups(self) -> np.ndarray:
        """(n,) int32, number 0..G-1 of the group of each feature."""
        if self.group_size == 1:
            return self.boxes.group
        return np.arange(self.boxes.n_features, dtype=np.int32) // np.int32(self.group_size)

    @property
    def reach(self) -> int:
        """Most units by which rewriting one group changes a class distance."""
        return self.boxes.width * self.group_size * len(self.box_sets)

    @property
    def table(self) -> dict[str, Any]:
        """How the training table was read: roles of columns, texts of missing values."""
        return self.training.get("table") or {}

    @property
    def missing_texts(self) -> frozenset[str]:
        """Texts that mean a missing value: the usual ones, and those of the training data."""
        return frozenset((*MISSING, *self.table.get("missing", ())))

    def rows(self, x: ArrayLike) -> np.ndarray:
        """Return samples as a matrix: of raw values where the model has a grid, else of codes.

        Parameters
        ----------
        x
            (N, n) or (N, *feature_shape): real features where the model has a grid, else codes
            0..255. Where it has columns, a table (see `Columns.values`) in which the same texts say
            that a cell has no value as in the training data, or an array of numbers, which are raw
            values by position: of a category its place among those of the column. Axes of length 1
            may be left out or added; samples of a model of flat rows may have any axes.

        Returns
        -------
        (N, n) uint8, float32 or float64

        Raises
        ------
        InputError
            Wrong number of features, axes in another order, values that are not finite, or not
            codes; of a table, a column that is missing, unknown or of another kind; a raw value
            that is no place among the categories of its column.
        """
        if self.columns is not None:
            cells = is_table(x) or np.asarray(x).dtype.kind not in "iufb"
            x = self.columns.values(x, self.missing_texts) if cells else x
        flat = validation.samples("x", x, self.feature_shape or (), "the model", empty=True)
        if self.grid is None:
            return validation.codes("x", flat, empty=True)
        rows = validation.features("x", flat, self.grid.missing is not None, empty=True)
        if self.columns is not None:
            listed = {k: self.columns[k] for k in category_places(self.columns)}
            sizes = {k: (column.name, len(column.categories)) for k, column in listed.items()}
            validation.places("x", rows, sizes)
        return rows

    def encode(self, x: ArrayLike) -> np.ndarray:
        """Return samples as codes.

        Parameters
        ----------
        x
            As for `rows`. Codes may be on a GPU. Lazy samples (a Dask array of any chunks, a Dask
            frame, or an xarray DataArray over one) give lazy results. A memory map or a Zarr array
            is read block by block and gives a NumPy array.

        Returns
        -------
        (N, n) uint8

        Raises
        ------
        InputError
            As for `rows`.
        """
        if lazy.is_deferred(x):
            return lazy.map_rows(BoxNN.encode, self, x, lazy.FEATURES)
        if on_gpu(x):
            if self.grid is not None:
                raise InputError("real features on a GPU are not binned there; pass a NumPy array")
            return self._flat_on_gpu(x)
        rows = self.rows(x)
        return rows if self.grid is None else self.grid.encode(rows)

    def _flat_on_gpu(self, x: Any) -> Any:
        """Return codes on a GPU as a matrix."""
        if x.ndim < 3:
            return x
        validation.same_axes("x", x.shape[1:], self.feature_shape or (), "the model")
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def class_distance(
        self, x: ArrayLike, device: str = "cpu", chunk: int | None = None
    ) -> np.ndarray:
        """Return the (N, K) int32 distances to the nearest box of each class, in units.

        They include the offsets of the classes; for an ensemble they are sums over the sets of
        boxes. Samples and errors are as for `encode`. `device` and `chunk` say where arrays in host
        memory are computed, as for `get_backend`.
        """
        if lazy.is_deferred(x):
            kind = {"device": device, "chunk": chunk}
            dims = {"class": self.classes}
            return lazy.map_rows(BoxNN.class_distance, self, x, dims, **kind)
        return ensemble_distance(self.encode(x), self.box_sets, device, chunk, self.offset)

    def predict(self, x: ArrayLike, device: str = "cpu") -> np.ndarray:
        """Return the (N,) class labels of the nearest boxes.

        Parameters and errors are as for `class_distance`.
        """
        return lazy.map_rows(BoxNN._nearest, self, self.class_distance(x, device))

    def _nearest(self, distance: np.ndarray) -> np.ndarray:
        """Return the labels of the nearest classes."""
        if on_gpu(distance):
            return self._labels(get_backend("cuda").certified_radius(distance, 1, True, 0)[0])
        return self._labels(distance.argmin(axis=1))

    def certify(
        self,
        x: ArrayLike,
        convention: str = "sound",
        device: str = "cpu",
        chunk: int | None = None,
        *,
        certificate: str = "margin",
        time_limit: float = 60.0,
        patch: Any = None,
        attackable: Any = None,
        costs: Any = None,
    ) -> Certificate:
        """Return predictions and certified radii.

        Parameters
        ----------
        x
            Samples, as for `encode`.
        convention
            As for `certified_radius`.
        device, chunk
            Where arrays in host memory are computed, as for `get_backend`; only margins can be
            computed on a GPU.
        certificate
            ``"margin"`` (Theorem 4.2, fastest), ``"pairwise"`` (`pairwise_radius`) or ``"exact"``
            (`exact_radius`): each gives radii at least as large as the one before, and is slower.
            ``"patch"`` (`patch_certified`) is for an adversary who rewrites a block of pixels: the
            radius is the side of the largest square that fits into a size of `patch` for which the
            prediction is certified, and 0 if there is none. ``"auto"`` is the certificate that
            `default_kind` returns.
        time_limit
            Seconds for each sample, for exact radii. When the time is up, the radius is the lower
            bound found so far, which is certified too.
        patch
            Sizes of blocks of pixels, as for `patch_certified`; for that certificate only.
        attackable
            The only columns (or groups) that may be rewritten, by name or number, or as a mask, of
            pixels for images; all by default. A radius equal to their number means that no
            rewriting of them changes the prediction.
        costs
            Cost of rewriting each column (or group), as for `Adversary.of`. The radius is then a
            budget (float64): changes that cost at most that much in total do not change the
            prediction.

        Returns
        -------
        Certificate
            Unpacks as ``prediction, radius``. For lazy samples both are lazy. For samples on a GPU
            the radius is on the GPU; so is the prediction for CuPy arrays if labels are numbers.

        Raises
        ------
        InputError
            As for `encode`, `pairwise_radius` and `patch_certified`.
        OptionError
            An option is unknown or out of range, or is for margins only.
        """
        validation.choice("certificate", certificate, (*certificates.KINDS, certificates.AUTO))
        validation.real("time_limit", time_limit, 0, open_low=True)
        if chunk is not None:
            validation.positive("chunk", chunk)
        if certificate == certificates.AUTO:
            certificate = certificates.default_kind(self)
        sizes = validation.patches_for(certificate, patch)
        who = {"attackable": attackable, "costs": costs}
        limited = attackable is not None or costs is not None
        if limited and (certificate == "patch" or on_gpu(x)):
            raise OptionError(
                "`attackable` and `costs` are not for patches nor for arrays on a GPU; leave them "
                "out, or pass NumPy arrays"
            )
        if certificate == "margin":
            distance = self.class_distance(x, device, chunk)
            kind = {"convention": convention, **(who if limited else {})}
            return lazy.map_rows(BoxNN._margins, self, distance, **kind)
        if convention != "sound" or device not in ("auto", "cpu") or on_gpu(x):
            raise OptionError(
                f"{certificate} certificates are sound and computed on the CPU; leave out "
                "convention and device, and pass NumPy arrays"
            )
        if lazy.is_deferred(x):
            options = {"certificate": certificate, "time_limit": time_limit, "patch": patch}
            return lazy.map_rows(BoxNN.certify, self, x, **options, **who)
        if certificate == "pairwise":
            return certificates.pairwise_radius(self, x, **who)
        if certificate == "patch":
            label, held = certificates.patch_certified(self, x, [*sizes])
            return Certificate(label, certificates.patch_sides([*sizes], held))
        lower, _ = certificates.exact_radii(self, x, time_limit, **who)
        return Certificate(self.predict(x), lower)

    def _margins(self, distance: np.ndarray, convention: str, **who: Any) -> Certificate:
        """Return labels and radii of class distances (N, K)."""
        adversary = Adversary.of(self, **who) if who else None
        index, radius = self.radii(distance, convention, adversary)
        return Certificate(self._labels(index), radius)

    def radii(
        self, distance: np.ndarray, convention: str = "sound", adversary: Adversary | None = None
    ) -> Certificate:
        """Return predicted class indices and certified radii for class distances (N, K).

        With an `adversary` the radii are for its attackable groups and costs.
        """
        kind = (
            self.boxes.width, self.group_size, convention, len(self.box_sets), group_count(self),
        )  # fmt: skip
        index, radius = certificates.certified_radius(distance, *kind)
        if adversary is not None:
            radius = adversary.radius(adversary.least(radius + 1))
        return Certificate(index, radius)

    def explain(
        self,
        x: ArrayLike,
        time_limit: float = 5.0,
        seed: int = 0,
        *,
        attackable: Any = None,
        costs: Any = None,
    ) -> list[certificates.Explanation]:
        """Explain each sample by its nearest boxes in raw values and the smallest change found.

        See `boxnn_numba.certificates.explain`; ``print(model.explain(x)[0])`` prints a text.
        """
        return certificates.explain(
            self, x, time_limit=time_limit, seed=seed, attackable=attackable, costs=costs
        )

    def column_importances(self, x: ArrayLike, seed: int = 0) -> np.ndarray:
        """Return how often (n,) each column is part of the smallest change found for a sample.

        See `boxnn_numba.certificates.column_importances`.
        """
        return certificates.column_importances(self, x, seed)

    def _parts(self) -> dict[str, str]:
        """Return short descriptions of boxes, features and classes."""
        sets, shape = len(self.box_sets), " x ".join(map(str, self.feature_shape or ()))
        listed = ", ".join(str(name)[:20] for name in self.classes[:6])
        more = f", ... ({len(self.classes)})" if len(self.classes) > 6 else ""
        return {
            "boxes": f"{sum(map(len, self.box_sets)):,} of width {self.boxes.width}"
            + (f" in {sets} sets" if sets > 1 else "")
            + self._templates(),
            "features": f"{shape} {'codes' if self.grid is None else self._kinds()}"
            + self._grouped(),
            "classes": printable(" ".join((listed + more).splitlines())),
        }

    def _kinds(self) -> str:
        """Return a short description of the raw values."""
        kinds = Counter(column.kind for column in self.columns or ())
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"columns ({listed})" if kinds else "real numbers"

    def _grouped(self) -> str:
        """Return a short description of the groups; empty if there are none."""
        sizes = np.unique(np.bincount(self.groups))
        if sizes[-1] == 1:
            return ""
        return f" in groups of {' or '.join(map(str, sizes[:3]))}{' or more' * (len(sizes) > 3)}"

    def _templates(self) -> str:
        """Return a short description of the templates; empty if there are none."""
        if all(boxes.structure.is_plain for boxes in self.box_sets):
            return ""
        templates = sum(len(boxes.structure.rows) - 1 for boxes in self.box_sets)
        parts = dict.fromkeys(str(boxes.structure.n_parts) for boxes in self.box_sets)
        return f", {templates:,} templates of {' or '.join(parts)} parts"

    def __repr__(self) -> str:
        return f"BoxNN({'; '.join(f'{name}: {text}' for name, text in self._parts().items())})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        rows = (
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in self._parts().items()
        )
        return f"<table><caption>BoxNN</caption>{''.join(rows)}</table>"

    def _labels(self, index: Any) -> Any:
        """Return the labels of class indices."""
        labels = np.asarray(self.classes)
        return get_backend("cuda").take(labels, index) if on_gpu(index) else labels[index]
