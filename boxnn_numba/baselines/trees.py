"""Trees as submodels of feature partition: extremely randomised trees for each part, in arrays.

An ensemble of trees votes by the mean of the class shares in the leaves that a sample reaches.
Trees are stored as arrays with an item for each node, without pickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import ExtraTreesClassifier

from boxnn_numba import validation as check
from boxnn_numba.baselines.encodings import PartColumns, submodel_input, training_data
from boxnn_numba.baselines.partition import make_partition, plurality_radius, votes_of
from boxnn_numba.certificates.margin import balanced_certified_accuracy
from boxnn_numba.errors import InputError, OptionError, first_line
from boxnn_numba.progress import SILENT, Progress
from boxnn_numba.training.selection import validation_split

#: Candidates for the number of parts; at most one part for each group of features.
PARTS = (3, 5, 7, 11, 15, 21, 30, 60)
#: Radii whose mean balanced certified accuracy decides, and the fraction of held-out rows.
RADII, HELD_OUT = (1, 2, 4), 0.25
_LEAF = -1
#: Units of a class share of 1: sums of integers are the same in any order.
UNITS = 2**20
#: Rows x trees that are looked at together.
_CHUNK = 2**20


class TreeSubmodels:
    """T ensembles of trees, the t-th of which sees the features of part t; made by `train_trees`.

    Parameters
    ----------
    arrays
        ``part`` (n,), the submodel of each feature; ``first`` (T, trees), the root of each tree,
        whose nodes follow; for each node ``feature`` (-1 in a leaf), ``threshold`` (the largest
        code that goes left), ``left`` and ``right`` (in a leaf ``left`` is its row of ``share``);
        ``share`` (leaves, K) int32, class shares in `UNITS`.
    settings
        Everything else as plain values (JSON).

    Attributes
    ----------
    n_features, n_classes, n_models
        Features n of a sample; classes K; submodels T.

    Raises
    ------
    InputError
        The arrays do not fit each other, or a tree looks at a feature of another part.
    """

    kind = "trees"

    def __init__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.n_features, self.n_classes = int(settings["n_features"]), int(settings["n_classes"])
        size = self.settings.get("group_size", 1)
        self.part = check.partition("part", arrays.get("part", ()), self.n_features, size)
        self.n_models = int(self.part.max()) + 1
        self._arrays = {**arrays, "part": self.part}
        try:
            self._check()
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"the trees do not fit each other ({error}); train them again"
            ) from error

    def _check(self) -> None:
        """Raise unless every path ends in a leaf and sees features of its own part alone."""
        node = {name: self._arrays[name] for name in ("feature", "threshold", "left", "right")}
        first, share = self._arrays["first"], self._arrays["share"]
        count = len(node["feature"])
        starts = np.append(first.ravel(), count)
        sizes = np.diff(starts)
        if (
            any(array.shape != (count,) for array in node.values())
            or not all(array.dtype.kind in "iu" for array in (first, share, *node.values()))
            or node["threshold"].dtype != np.uint8
            or first.ndim != 2
            or len(first) != self.n_models
            or starts[0] != 0
            or sizes.min() < 1
            or share.ndim != 2
            or share.shape[1] != self.n_classes
            or np.abs(share).max(initial=0) > UNITS
        ):
            raise ValueError("shapes")
        inner = node["feature"] != _LEAF
        at, end = np.arange(count)[inner], np.repeat(starts[1:], sizes)[inner]
        for side in ("left", "right"):
            child = node[side][inner]
            # Children come after their parent, so there are no circles.
            if not ((child > at) & (child < end)).all():
                raise ValueError("children")
        leaf = node["left"][~inner]
        owner = np.repeat(np.arange(self.n_models), first.shape[1]).repeat(sizes)[inner]
        if node["feature"].min() < _LEAF or (leaf < 0).any() or (leaf >= len(share)).any():
            raise ValueError("leaves")
        if (self.part[node["feature"][inner]] != owner).any():
            raise ValueError("a tree sees another part")

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], device: str = "cpu"
    ) -> Self:
        """Return the trees from what `arrays` and `settings` gave; any device means the CPU."""
        return cls(arrays, settings)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays, as the class takes them."""
        return dict(self._arrays)

    def multiply_adds(self) -> int:
        """Return the trees that look at a sample: each adds up its class shares."""
        return int(self._arrays["first"].size) * self.n_classes

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return scores (B, T, K) float64 of codes (B, n): class shares of each part."""
        codes = submodel_input(x, self.n_features)
        step = max(1, _CHUNK // self._arrays["first"].size)
        return np.concatenate(
            [self._shares(codes[i : i + step]) for i in range(0, len(codes), step)]
        )

    def _shares(self, codes: np.ndarray) -> np.ndarray:
        tree = self._arrays
        roots = tree["first"].ravel()
        at = np.tile(roots, (len(codes), 1)).ravel()
        row = np.arange(len(codes)).repeat(len(roots))
        going = np.flatnonzero(tree["feature"][at] != _LEAF)
        while len(going):
            node = at[going]
            low = codes[row[going], tree["feature"][node]] <= tree["threshold"][node]
            at[going] = np.where(low, tree["left"][node], tree["right"][node])
            going = going[tree["feature"][at[going]] != _LEAF]
        share = tree["share"][tree["left"][at]]
        per_tree = share.reshape(len(codes), *tree["first"].shape, self.n_classes)
        return per_tree.sum(axis=2, dtype=np.int64) / (UNITS * tree["first"].shape[1])


def train_trees(
    x: ArrayLike,
    y: ArrayLike,
    part: ArrayLike,
    *,
    n_classes: int,
    feature_shape: Sequence[int] | None = None,
    group_size: int = 1,
    trees: int = 50,
    fewest: int = 2,
    class_weight: Any = "balanced",
    seed: int = 0,
    progress: Progress = SILENT,
) -> TreeSubmodels:
    """Train an ensemble of extremely randomised trees for each part of the features.

    Parameters
    ----------
    x
        (N, n) codes.
    y
        (N,) class indices 0..K-1; each class must occur.
    part
        (n,) integers, the part 0..T-1 of each feature (`partition.make_partition`).
    n_classes
        Number of classes K.
    feature_shape
        Shape of a sample, kept with the trees.
    group_size
        Features that follow each other and are in one part, such as a pixel's channels.
    trees, fewest
        Trees for each part, and samples that a leaf has at least.
    class_weight
        As for `sklearn.ensemble.ExtraTreesClassifier`.
    seed
        Of the trees.
    progress
        Told how far training is.

    Returns
    -------
    TreeSubmodels

    Raises
    ------
    InputError
        `x` or `y` cannot be used, a class has no sample, or `part` is no partition.
    OptionError
        An option is out of range.
    """
    codes, classes = training_data(x, y, n_classes)
    n = codes.shape[1]
    shape = check.sample_shape(codes.shape[1:] if feature_shape is None else feature_shape, n)
    parts = check.partition("part", part, n, group_size)
    forest = ExtraTreesClassifier(
        check.positive("trees", trees),
        min_samples_leaf=check.positive("fewest", fewest),
        class_weight=class_weight,
        random_state=check.integer("seed", seed, low=0),
    )
    members = PartColumns(parts).members
    progress.start(len(members), "parts")
    found: list[dict[str, np.ndarray]] = []
    first: list[list[int]] = []
    nodes, leaves = 0, 0
    for own in members:
        try:
            fitted = forest.fit(codes[:, own], classes)
        except (ValueError, TypeError) as error:  # of class_weight, which nothing else checks
            raise OptionError(f"class_weight cannot be used: {first_line(error)}") from error
        first.append([])
        for estimator in fitted.estimators_:
            arrays = _nodes(estimator.tree_, own, nodes, leaves)
            first[-1].append(nodes)
            nodes, leaves = nodes + len(arrays["feature"]), leaves + len(arrays["share"])
            found.append(arrays)
        progress.advance(1)
    joined = {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
    settings = {
        "kind": TreeSubmodels.kind, "base": "trees", "parts": len(members), "trees": trees,
        "fewest": fewest,
        "n_features": n, "n_classes": n_classes, "group_size": group_size,
        "feature_shape": list(shape),
    }  # fmt: skip
    return TreeSubmodels({"part": parts, "first": np.array(first, np.int32), **joined}, settings)


def _nodes(tree: Any, own: np.ndarray, nodes: int, leaves: int) -> dict[str, np.ndarray]:
    """Return a fitted tree in arrays; its nodes and leaves are numbered from those before."""
    is_leaf = tree.children_left < 0
    value = tree.value[is_leaf, 0]
    number = leaves + np.cumsum(is_leaf) - 1
    return {
        "feature": np.where(is_leaf, _LEAF, own[np.maximum(tree.feature, 0)]).astype(np.int32),
        # Codes are whole numbers, so what is at most a threshold is at most its floor.
        "threshold": np.where(is_leaf, 0, np.floor(tree.threshold)).astype(np.uint8),
        "left": np.where(is_leaf, number, tree.children_left + nodes).astype(np.int32),
        "right": np.where(is_leaf, 0, tree.children_right + nodes).astype(np.int32),
        "share": np.rint(UNITS * value / value.sum(axis=1, keepdims=True)).astype(np.int32),
    }


def train_partition(
    x: ArrayLike,
    y: ArrayLike,
    *,
    n_classes: int,
    parts: int | None = None,
    partition: str = "strided",
    feature_shape: Sequence[int] | None = None,
    group_size: int = 1,
    trees: int = 50,
    seed: int = 0,
    progress: Progress = SILENT,
) -> TreeSubmodels:
    """Train trees for the parts of a partition; by default choose the number of parts.

    Parameters
    ----------
    parts
        Number of parts T; by default the one of `PARTS` with the highest mean balanced certified
        accuracy by plurality at `RADII`, on held-out rows.
    partition, feature_shape, group_size
        As for `make_partition`.
    x, y, n_classes, trees, seed, progress
        As for `train_trees`.

    Returns
    -------
    TreeSubmodels
        Trained on all rows.

    Raises
    ------
    InputError, OptionError
        As for `train_trees` and `make_partition`.
    """
    codes, classes = training_data(x, y, n_classes)
    options: dict[str, Any] = {"n_classes": n_classes, "trees": trees, "seed": seed}
    where = codes.shape[1], partition, seed, feature_shape, group_size
    if parts is None:
        parts = _best_parts(codes, classes, where, options)
    part = _part(where, parts)
    return train_trees(
        codes, classes, part,
        feature_shape=feature_shape, group_size=group_size, progress=progress, **options,
    )  # fmt: skip


def _part(where: tuple[Any, ...], parts: int) -> np.ndarray:
    n, partition, *rest = where
    return make_partition(partition, n, parts, *rest)


def _best_parts(
    codes: np.ndarray, classes: np.ndarray, where: tuple[Any, ...], options: dict[str, Any]
) -> int:
    if where[1] == "patch":
        raise OptionError("`parts` is missing; pass how many patches there are")
    rows, held = validation_split(classes, HELD_OUT, options["seed"])
    held = held if len(held) else rows
    groups, best = check.group_count(where[4], codes.shape[1]), (-1.0, 1)
    for count in sorted({min(count, groups) for count in PARTS}):
        model = train_trees(codes[rows], classes[rows], _part(where, count), **options)
        outcome = plurality_radius(votes_of(model.scores(codes[held])))
        score = float(balanced_certified_accuracy(*outcome, classes[held], RADII).mean())
        best = max(best, (score, -count))
    return -best[1]
