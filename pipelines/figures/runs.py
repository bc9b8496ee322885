"""Runs: certificates as figures and reports see them, one a file, all of one data set and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from boxnn_numba.certificates import margin
from boxnn_numba.data.paths import Location, Name, location
from boxnn_numba.data.radii_table import read_radii
from boxnn_numba.data.row_files import most_of, unit_of
from boxnn_numba.errors import CertificateFileError, OptionError
from boxnn_numba.pipelines.figures.published import Method, method
from boxnn_numba.text import printable

if TYPE_CHECKING:
    from boxnn_numba.data.attack_store import AttackFile
    from boxnn_numba.data.certificate_store import CertificateFile


#: Radii that a curve has besides 0: a file may claim as many as there are features.
MOST_DRAWN = 2**17


class Summary(NamedTuple):
    """Samples in one line; accuracies are in percent, balanced with all classes counted alike."""

    name: str
    n: int
    accuracy: float
    balanced_accuracy: float
    median_certified_radius: float
    mean_certified_radius: float


class ClassSummary(NamedTuple):
    """Samples of one true class in one line; recall is the percentage that is right."""

    name: str
    n: int
    recall: float
    median_certified_radius: float
    mean_certified_radius: float


class Constant(NamedTuple):
    """The majority-class baseline: it always predicts one class, certified at every radius.

    Its accuracy, and the same with all classes counted alike, are in percent.
    """

    name: str
    accuracy: float
    balanced_accuracy: float

    @property
    def lopsided(self) -> bool:
        """Whether one class is so frequent that accuracy says little."""
        return self.accuracy > 1.5 * self.balanced_accuracy


@dataclass(frozen=True, eq=False)
class Run:
    """One certified test set.

    Parameters
    ----------
    name
        Shown in legends and tables; differs from run to run.
    prediction, radius, label
        (N,) integers: predicted class (-1 where the method abstains), certified radius, true class
        (another negative number if unknown).
    classes
        Names of the classes, in the order of their indices.
    attributes
        Attributes of the certificate file.
    class_distance
        (N, K) integer units, or None where a method has none.
    path
        The certificate file, or None for a run that is not in a file.
    robust
        (R,) percent of samples that an attack leaves right with up to 0, 1, ... changes; None
        where none was made.
    attacked
        How many samples that is of.
    attack
        The file with the attack's inputs, or None.
    patches
        Percent right and certified by size of patch; None where that was not looked at.
    robust_patches
        Percent that an attack by patches leaves right, by their size; None where none was made.
    row
        (N,) number of each sample in the split; 0, 1, ... where it is None.
    """

    name: str
    prediction: np.ndarray
    radius: np.ndarray
    label: np.ndarray
    classes: Sequence[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    class_distance: np.ndarray | None = None
    path: Location | None = None
    robust: np.ndarray | None = None
    attacked: int = 0
    attack: AttackFile | None = None
    row: np.ndarray | None = None
    patches: dict[str, float] | None = None
    robust_patches: dict[str, float] | None = None

    @property
    def numbers(self) -> np.ndarray:
        """(N,) number of each sample in the split."""
        return np.arange(len(self.label)) if self.row is None else self.row

    def place(self, number: int) -> int:
        """Return where the sample with a number in the split is in the arrays."""
        return int(np.searchsorted(self.numbers, number))

    @property
    def units(self) -> int:
        """Units of a class distance that are one feature."""
        return int(self.attributes["width"]) * int(self.attributes.get("members", 1))

    @property
    def unit(self) -> str:
        """Unit of radii: ``"pixels"``, ``"columns"``, ``"features"`` or ``"cost"``."""
        known = {"feature_shape", "group_size"} <= self.attributes.keys()
        unit = unit_of(self.attributes) if known else "features"
        return unit if self.step == 1 else f"{unit} in steps of {self.step:g}"

    @property
    def distance_unit(self) -> str:
        """What distances are in; groups of the first version of models count code by code."""
        return self.unit if self.attributes.get("group_size", 1) == 1 else "features"

    @property
    def has_boxes(self) -> bool:
        """Whether the method is Box-NN, not one of the published defences."""
        return self.attributes.get("method", margin.BOX_NN) == margin.BOX_NN

    @property
    def words(self) -> Method:
        """The name, taken apart where it is a published defence with its setting, ``RA_45``."""
        words = method(self.name)
        return Method(self.name) if self.has_boxes or words.setting is None else words

    @property
    def dataset_name(self) -> str:
        """Name of the data set."""
        return str(self.attributes.get("dataset_name", ""))

    @property
    def outcome(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prediction, radius and label, as `boxnn_numba.certificates.margin` takes them."""
        return self.prediction, self.radius, self.label

    @property
    def most(self) -> float:
        """The radius that means never, in `unit`; infinity where unknown."""
        if not {"feature_shape", "group_size"} <= self.attributes.keys():
            return np.inf
        return float(in_steps(np.asarray(most_of(self.attributes)), self.attributes))

    @property
    def step(self) -> float:
        """What a radius of 1 is worth: more or less than a cost of 1 where costs are odd."""
        return cost_step(self.attributes)

    def curve(self) -> np.ndarray:
        """Return certified accuracy in percent at every radius 0, 1, ..., the largest."""
        return certified_curve(self.outcome)

    def balanced_curve(self) -> np.ndarray:
        """Return the same with all classes that occur counted alike."""
        known = self.label >= 0
        prediction, radius, label = (values[known] for values in self.outcome)
        radii = _drawn(self.radius)
        return 100 * margin.balanced_certified_accuracy(prediction, radius, label, radii)

    def summary(self) -> Summary:
        """Return the figures that describe the run in one line."""
        n, accuracy, median, mean = _figures(*self.outcome)
        balanced = round(float(self.balanced_curve()[0]), 4)
        return Summary(self.name, n, accuracy, balanced, median, mean)

    def per_class(self) -> list[ClassSummary]:
        """Return the figures of each true class that occurs, under its name."""
        return [
            ClassSummary(str(name), *_figures(*(values[of_class] for values in self.outcome)))
            for index, name in enumerate(self.classes)
            if (of_class := self.label == index).any()
        ]


def _figures(
    prediction: np.ndarray, radius: np.ndarray, label: np.ndarray
) -> tuple[int, float, float, float]:
    """Return how many samples there are, percent right, and their median and mean radius."""
    accuracy = 100 * float((prediction == label).mean())
    median = margin.median_certified_radius(prediction, radius, label)
    mean = margin.mean_certified_radius(prediction, radius, label)
    return len(label), round(accuracy, 4), median, round(mean, 4)


def constant_of(runs: Sequence[Run]) -> Constant:
    """Return the majority-class baseline on the samples of the run that has most of them."""
    run = max(runs, key=lambda run: len(run.label))
    known = run.label[run.label >= 0]
    label, accuracy, balanced = margin.majority(known)
    share = 100 * accuracy * len(known) / len(run.label)
    return Constant(str(run.classes[int(label)]), round(share, 4), round(100 * balanced, 4))


def cost_step(attributes: Mapping[str, Any]) -> float:
    """Return the cost that a radius counts as one: 1, or so that all costs together are 20 to 200.

    1 where there are no costs.
    """
    if "costs" not in attributes:
        return 1.0
    most, step = most_of(attributes), 1.0
    scale = 10.0 ** np.floor(np.log10(most / 20))
    if not 20 <= most <= 200:
        step = max(base * scale for base in (1, 2, 5) if most / (base * scale) >= 20)
    return float(f"{step:.3g}")


def in_steps(radius: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Return radii as whole numbers of the steps that are counted, rounded down."""
    if "costs" not in attributes:
        return radius
    steps = np.asarray(radius, dtype=np.float64) / cost_step(attributes)
    near = np.rint(steps)
    # A sum of costs such as 0.3 is not quite three times 0.1 as a float.
    whole = np.where(np.abs(steps - near) <= 1e-12 * near, near, np.floor(steps))
    return whole.astype(np.int64)


def certified_curve(outcome: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Return certified accuracy in percent at radii 0, 1, ..., the largest of an outcome."""
    return 100 * margin.certified_accuracy(*outcome, _drawn(outcome[1]))


def _drawn(radius: np.ndarray) -> np.ndarray:
    """Return the radii of a curve: 0, 1, ..., the largest, or as far as one is drawn."""
    return np.arange(min(int(radius.max()), MOST_DRAWN) + 1)


def load_runs(paths: Sequence[Name], convention: str = "sound") -> list[Run]:
    """Read certificate files of one data set and split, in their order, under names that differ.

    A path that ends in ``.csv`` is of another method (`read_radii`), of the same split. Its
    curve is of the samples of the certificate file that has most of them.

    With the `convention` ``"paper"`` radii are recomputed from the stored class distances as the
    paper's tables count them.

    Raises
    ------
    OptionError
        No certificate file, a file twice, or files of different data sets or splits, or whose
        radii count different things.
    CertificateFileError
        A file cannot be read, holds no sample, or holds no true class.
    """
    from boxnn_numba.data.certificate_store import open_certificate

    if all(map(_is_table, paths)):
        raise OptionError("no certificate was given; pass at least one made by boxnn certify")
    resolved = [location(path).resolve() for path in paths]
    for position, place in enumerate(resolved):
        if place in resolved[:position]:
            raise OptionError(f"{paths[position]} was given twice; pass each certificate once")
    files = [None if _is_table(path) else open_certificate(path) for path in paths]
    runs: dict[int, Run] = {}
    names = _names(resolved, files)
    for at, (path, file) in enumerate(zip(paths, files, strict=True)):
        if file is None:
            continue
        prediction, radius, label = file.outcome(convention)
        attributes = dict(file.attributes)
        known = prediction, in_steps(radius, attributes), label, list(file.classes), attributes
        run = runs[at] = Run(
            names[at], *known, file.class_distance, location(path), row=file.row,
            patches=file.patches,
        )  # fmt: skip
        if not (run.label >= 0).any():
            raise CertificateFileError(
                f"{path} has no sample whose true class is known; certify a data set with labels"
            )
        _check_comparable(next(iter(runs.values())), run)
    # Radii of other methods are of the samples that most is known of.
    beside = max(runs.values(), key=lambda run: len(run.label))
    for at, (path, file) in enumerate(zip(paths, files, strict=True)):
        if file is None:
            runs[at] = _of_table(path, names[at], beside)
    return [runs[at] for at in range(len(paths))]


def _is_table(path: Name) -> bool:
    return str(path).lower().endswith(".csv")


def _of_table(path: Name, name: str, beside: Run) -> Run:
    """Return the run of another method, of the samples of a run that is `beside` it."""
    known = dict(beside.attributes)
    if "costs" in known:  # what a column costs, radii of others do not know
        raise OptionError(
            f"the radii of {path} are whole numbers and those of {beside.path} are cost; make one "
            "report for each"
        )
    rows = int(known.get("split_rows") or len(beside.label))
    prediction, radius = (part[beside.numbers] for part in read_radii(path, beside.classes, rows))
    shared = ("dataset", "dataset_name", "dataset_digest", "split", "feature_shape", "group_size",
              "groups", "attackable")  # fmt: skip
    attributes = {key: known[key] for key in shared if key in known}
    attributes |= {"method": name, "certificate": "as given"}
    radius = np.minimum(radius, int(most_of(known)))
    return Run(
        name, prediction, radius, beside.label, beside.classes, attributes,
        path=location(path), row=beside.numbers,
    )  # fmt: skip


def _names(paths: Sequence[Location], files: Sequence[CertificateFile | None]) -> list[str]:
    """Name each run: a published defence as the paper does where that tells them apart."""
    methods = [None if file is None else _published_name(file.attributes) for file in files]
    names = []
    for published, stem, file in zip(methods, distinct_names(paths), files, strict=True):
        if published is not None:
            once = methods.count(published) == 1
            names.append(published if once else f"{published} ({stem})")
        else:
            words = _words_of(file, stem)
            names.append(f"{stem} ({', '.join(words)})" if words else stem)
    return names


def _words_of(file: CertificateFile | None, stem: str) -> list[str]:
    """Return what a legend says of a file besides its name: its kind, and who is the adversary."""
    if file is None:
        return []
    plain = file.certificate == "margin" or file.certificate in stem
    words = [] if plain else [file.certificate]
    free = file.attributes.get("attackable")
    return words if free is None else [*words, f"{len(free)} attackable"]


def _published_name(attributes: Mapping[str, Any]) -> str | None:
    """Return e.g. ``"RA_45"`` or ``"FPA_25^B"``; None for Box-NN."""
    size = attributes.get("retained", attributes.get("parts"))
    if attributes["method"] == margin.BOX_NN or size is None:
        return None
    base, _, variant = str(attributes["method"]).partition("^")
    return f"{base}_{size}" + (f"^{variant}" if variant else "")


def distinct_names(paths: Sequence[Location]) -> list[str]:
    """Name each file by its stem, with as many parent folders as it takes to tell them apart.

    Bytes that are no text are written out.
    """
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join((*path.parts[-depth:-1], path.stem)) for path in paths]
        if len(set(names)) == len(names):
            return [printable(name) for name in names]
    return [printable(str(path)) for path in paths]


def _check_comparable(first: Run, other: Run) -> None:
    def words(run: Run, key: str) -> str:
        value = str(run.attributes.get(key))
        return value if key == "split" else f"{run.attributes.get('dataset')}, digest {value[:8]}"

    for key, noun in (("dataset_digest", "data set"), ("split", "split")):
        if first.attributes.get(key) != other.attributes.get(key):
            raise OptionError(
                f"{first.path} and {other.path} are of different {noun}s ({words(first, key)} and "
                f"{words(other, key)}); make one report for each"
            )
    if first.unit != other.unit or first.attributes.get("costs") != other.attributes.get("costs"):
        what = [run.unit for run in (first, other)]
        if what[0] == what[1]:
            what = ["some costs", "others"]
        raise OptionError(
            f"the radii of {first.path} count {what[0]} and those of {other.path} {what[1]}; "
            "make one report for each"
        )
