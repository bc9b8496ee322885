"""Export of boxes and certificates to files that other programs read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.boxes import Boxes
from boxnn_numba.columns import Columns
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.attack_store import AttackFile, open_attack
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.dataset import Dataset
from boxnn_numba.data.model_store import load_model
from boxnn_numba.data.paths import Location, Name, location
from boxnn_numba.data.table_files import ENDINGS, STDOUT, table_output
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.pipelines.figures.origins import Origins
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

#: Columns of our own, which no column that names rows hides.
_TAKEN = {"row", "label", "prediction", "radius", "upper", "column", "from", "to"}
#: Boxes that are written of templates at most.
MOST_EXPANDED = 100_000


@dataclass(frozen=True)
class ExportedBoxes(Result):
    """A file that was written, and its numbers of boxes and features."""

    out: str
    boxes: int
    features: int


@dataclass(frozen=True)
class ExportedTable(Result):
    """A file that was written, and how many rows and columns it has."""

    out: str
    rows: int
    columns: int


def export_boxes(
    model: Name, out: Name, *, expand: bool = False, run: RunOptions = DEFAULT_RUN
) -> ExportedBoxes:
    """Write the boxes of a model to a NumPy file, which opens without pickle.

    Parameters
    ----------
    model
        Path of a model.
    out
        The ``.npz`` file to write: ``lower``, ``upper`` (M, n) uint8, ``label`` (M,) int32 index
        into ``classes``, ``template`` (M,) int32, ``group`` (n,) int32, ``part`` (E, n) int32 of
        each set of boxes, ``offset`` (K,) int64, ``width``, ``group_size`` and ``feature_shape``;
        with a grid also ``low`` and ``high`` (M, n) float64, so that raw values v in
        ``low <= v < high`` are in the box; of a table ``column`` (n,) names and ``admitted`` (M, n)
        words for what a box admits, which list categories (there ``low`` and ``high`` are NaN); of
        an ensemble ``member`` (M,) int32, the set that a box is in. Templates are numbered through
        all sets. Where ``group_size`` is above 1 (models of the first version of the file format)
        the features of a group are capped one by one.
    expand
        Write every box that the templates stand for, each choice of a row for every part, instead
        of their rows. At most `MOST_EXPANDED`.
    run
        Whether to replace what is at `out`.

    Returns
    -------
    ExportedBoxes

    Raises
    ------
    OptionError
        `out` does not end in ``.npz``, or exists; or there are too many boxes to expand.
    ModelFileError
        The model is missing or damaged.
    OutputError
        `out` cannot be written.
    """
    target = _named(out, (".npz",))
    classifier = load_model(model)
    sets = classifier.box_sets
    if expand:
        _check_expandable(model, sets)
        sets = tuple(map(_expanded, sets))
    lower, upper, label = (
        np.concatenate([getattr(boxes, name) for boxes in sets])
        for name in ("lower", "upper", "labels")
    )
    first = np.cumsum([0, *(boxes.template[-1] + 1 for boxes in sets[:-1])])
    arrays = {
        "lower": lower,
        "upper": upper,
        "label": label,
        "template": np.concatenate(
            [boxes.template + np.int32(start) for boxes, start in zip(sets, first, strict=True)]
        ),
        "group": classifier.groups,
        "part": np.stack([boxes.part for boxes in sets]),
        "offset": classifier.offset,
        "classes": _plain(classifier.classes),
        "width": np.int64(classifier.boxes.width),
        "group_size": np.int64(classifier.group_size),
        "feature_shape": np.array(classifier.feature_shape or lower.shape[1:], np.int64),
    }
    if classifier.grid is not None:
        arrays["low"], arrays["high"] = classifier.grid.interval(lower, upper)
        if classifier.columns is not None:
            arrays["column"] = np.array(classifier.columns.names)
            arrays["admitted"] = _admitted(classifier.grid, classifier.columns, lower, upper)
    if classifier.others:
        arrays["member"] = np.repeat(np.arange(len(sets), dtype=np.int32), list(map(len, sets)))
    staged = staged_output(
        target, overwrite=run.overwrite, no_lock=run.no_lock, directory=False, inputs=[model]
    )
    with staged as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return ExportedBoxes(str(target), *lower.shape)


def _admitted(grid: Grid, columns: Columns, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return (M, n) words for the raw values that boxes admit."""
    known: dict[tuple[int, int, int], str] = {}
    for k, column in enumerate(columns):
        for pair in set(zip(lower[:, k].tolist(), upper[:, k].tolist(), strict=True)):
            known[k, *pair] = grid.admitted(k, *pair, column)
    return np.array([
        [known[k, *pair] for k, pair in enumerate(zip(low, high, strict=True))]
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True)
    ])  # fmt: skip


def export_certificates(
    certificate: Name,
    out: Name,
    *,
    data: Name | None = None,
    as_json: bool = False,
    run: RunOptions = DEFAULT_RUN,
) -> ExportedTable:
    """Write a certificate file as a table.

    Parameters
    ----------
    certificate
        Path of a certificate file of any method.
    out
        The table to write, as for `table_output`. Columns: ``row`` of the split, what names it
        where the data set has that, ``label`` (empty where it is unknown), ``prediction`` (empty
        where the method abstains), ``radius``, ``upper`` of exact certificates,
        ``withstands_ROWSxCOLUMNS`` of patches, and ``distance_CLASS`` of every class, in units.
    data
        The data set, where rows are named and it is not where it was.
    as_json
        Write JSON to the standard output.
    run
        Whether to replace what is at `out`.

    Returns
    -------
    ExportedTable

    Raises
    ------
    OptionError
        `out` has another ending or exists, or Parquet is wanted and pyarrow is not installed.
    CertificateFileError
        The file is missing, damaged or unfinished.
    DataError
        Rows are named in the data set, which is not there.
    OutputError
        `out` cannot be written.
    """
    _check_ending(out)
    file = open_certificate(certificate)
    named = _names(file, _dataset(file, data)) if "id" in file.attributes else {}
    return _written(out, named | _columns(file), certificate, as_json, run)


def export_attacks(
    attack: Name,
    out: Name,
    *,
    data: Name | None = None,
    as_json: bool = False,
    run: RunOptions = DEFAULT_RUN,
) -> ExportedTable:
    """Write what attacks change as a table, a row for each value that is rewritten.

    Parameters
    ----------
    attack
        Path of an attack file.
    out
        The table to write, as for `table_output`. Columns: ``row`` of the split, what names it
        where the data set has that, ``column`` (of data without columns the number of the feature),
        ``from`` and ``to``, as a user writes them.
    data
        The data set that was attacked, where it is not where it was.
    as_json
        Write JSON to the standard output.
    run
        Whether to replace what is at `out`.

    Returns
    -------
    ExportedTable

    Raises
    ------
    OptionError
        `out` has another ending or exists, Parquet is wanted and pyarrow is not installed, or the
        data set is another one.
    AttackFileError
        The file is missing, damaged or unfinished.
    DataError
        The data set is not there.
    OutputError
        `out` cannot be written.
    """
    _check_ending(out)
    file = open_attack(attack)
    dataset = _dataset(file, data)
    listed = file.attributes.get("columns")
    columns = None if listed is None else Columns.from_list(listed)
    dataset = dataset.matched(columns, str(attack))
    x = dataset.read_rows(file.attributes["split"], file.row)[0] if len(file) else file.x
    # NaN stays NaN: a missing value that is left alone is no change.
    different = (file.x != x) & ~(np.isnan(file.x) & np.isnan(x)) & (file.changed > 0)[:, None]
    places, features = np.nonzero(different)
    named = _names(file, dataset) if dataset.id_name is not None else {"row": file.row}
    found: dict[str, Any] = {name: np.asarray(values)[places] for name, values in named.items()}
    pairs = [
        [
            _value(columns, k, values[i, k])
            for i, k in zip(places.tolist(), features.tolist(), strict=True)
        ]
        for values in (x, file.x)
    ]
    names = features if columns is None else np.array(columns.names, object)[features]
    found |= {"column": names, "from": pairs[0], "to": pairs[1]}
    return _written(out, found, attack, as_json, run)


def _value(columns: Columns | None, place: int, value: Any) -> Any:
    """Return a raw value as a user writes it."""
    return value.item() if columns is None else columns.text(place, value)


def _dataset(file: CertificateFile | AttackFile, data: Name | None) -> Dataset:
    """Return the data set that a file is of, where that says it is or where `data` does."""
    found = Origins([file], data).dataset(file)
    if found is None:
        raise DataError(
            f"the data set {file.attributes.get('dataset')} of {file.path} is not there; pass it "
            "as `data`"
        )
    return found


def _names(file: CertificateFile | AttackFile, dataset: Dataset) -> dict[str, Any]:
    """Return the number of each row, and what names it."""
    ids = dataset.read_ids(file.attributes["split"])
    assert ids is not None and dataset.id_name is not None
    row = file.row
    name = dataset.id_name if dataset.id_name not in _TAKEN else "id"
    return {"row": row, name: ids[row]}


def _written(
    out: Name, rows: dict[str, Any], source: Name, as_json: bool, run: RunOptions
) -> ExportedTable:
    with table_output(
        out, overwrite=run.overwrite, no_lock=run.no_lock, inputs=[source], as_json=as_json
    ) as write:
        write(rows)
    return ExportedTable(str(out), len(rows["row"]), len(rows))


def _check_ending(out: Name) -> None:
    if str(out) != STDOUT:
        _named(out, ENDINGS)


def _check_expandable(model: Name, sets: Sequence[Boxes]) -> None:
    """Raise if the templates of some sets stand for more boxes than are written."""
    count = sum(
        int(rows) ** boxes.structure.n_parts
        for boxes in sets
        for rows in np.diff(boxes.structure.rows)
    )
    if count > MOST_EXPANDED:
        raise OptionError(
            f"the templates of {model} stand for {_words(count)} boxes, and at most "
            f"{MOST_EXPANDED:,} are written; leave out `expand`, which writes their rows"
        )


def _words(count: int) -> str:
    return f"{count:,}" if count < 10**12 else f"about 10^{math.log10(count):.0f}"


def _expanded(boxes: Boxes) -> Boxes:
    """Return the boxes that templates stand for, each choice of a row for every part, as plain."""
    kind, every = boxes.structure, np.arange(boxes.n_features)
    if kind.is_plain:
        return boxes
    chosen = [
        np.indices([stop - start] * kind.n_parts).reshape(kind.n_parts, -1).T + start
        for start, stop in zip(kind.rows[:-1], kind.rows[1:], strict=True)
    ]  # for each template (L ** P, P) rows
    rows = np.concatenate(chosen)
    lower, upper = (side[rows[:, boxes.part], every] for side in (boxes.lower, boxes.upper))
    return Boxes(
        lower, upper, boxes.labels[rows[:, 0]], boxes.width, boxes.n_classes,
        template=np.repeat(np.arange(len(chosen)), list(map(len, chosen))), part=boxes.part,
        group=boxes.group,
    )  # fmt: skip


def _named(out: Name, endings: tuple[str, ...]) -> Location:
    target = location(out)
    if target.suffix not in endings:
        raise OptionError(f"`out` is {out}; its name must end in {', '.join(endings)}")
    return target


def _plain(classes: Sequence[Any]) -> np.ndarray:
    """Return labels as an array of integers or of strings; NumPy would pickle others.

    Strings tell apart what is different, as 1 and "1".
    """
    labels = np.array(classes) if all(isinstance(label, int) for label in classes) else None
    if labels is not None and labels.dtype.kind in "biu":  # Python's may be too large for these.
        return labels
    words = list(map(str, classes))
    return np.array(words if len(set(words)) == len(words) else list(map(repr, classes)))


def _columns(file: CertificateFile) -> dict[str, Any]:
    names = _plain(file.classes)

    def labels(index: np.ndarray) -> list[Any]:
        return [names[i].item() if i >= 0 else None for i in index]

    patches: dict[str, Any] = {}
    if file.patches is not None and file.withstands is not None:
        columns = zip(file.patches, file.withstands.T, strict=True)
        patches = {f"withstands_{size}": held for size, held in columns}
    more = {name: getattr(file, name) for name in ("upper", "budget", "budget_upper")}
    distance = {f"distance_{name}": file.class_distance[:, k] for k, name in enumerate(names)}
    return {
        "row": file.row,
        "label": labels(file.label),
        "prediction": labels(file.prediction),
        "radius": file.radius,
        **{name: values for name, values in more.items() if values is not None},
        **patches,
        **distance,
    }
