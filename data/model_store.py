"""Models on disk, and the base classifiers of published defences: written and read here only.

Each is a Zarr v3 group (a directory, or a single ``.zip``) without pickles; see the file format
in the documentation.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import ZipStore

from boxnn_numba import validation
from boxnn_numba.baselines.model import METHODS, BaselineModel
from boxnn_numba.boxes import Boxes
from boxnn_numba.columns import Columns
from boxnn_numba.data import zarr_format
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.paths import Location, Name, put
from boxnn_numba.data.schema import (
    CLASSES,
    COLUMNS,
    DIGEST,
    FEATURE_SHAPE,
    MOST_FEATURES,
    MOST_MEMBERS,
    MOST_MODEL,
    OBJECT,
    TEXT,
    TRAINING,
    ArrayRule,
    Schema,
    mapped,
    one_of,
    record,
    whole,
)
from boxnn_numba.errors import BoxNNError, InputError, ModelFileError
from boxnn_numba.grid import Grid
from boxnn_numba.model import BoxNN

FORMAT, VERSION = "boxnn-model", 2
BASELINE_FORMAT, BASELINE_VERSION = "boxnn-baseline", 1
#: Arrays that version 2 of the format added for each set of boxes.
_STRUCTURE = ("template", "part", "group")
#: Folder of a network's arrays in the group.
_WEIGHTS = "weights/"
#: Arrays of a model by the last part of their names. Each set of boxes has its own M and P.
_ARRAYS = {
    **dict.fromkeys(("lower", "upper"), ArrayRule(("M", "n"), ("uint8",))),
    **dict.fromkeys(("label", "template"), ArrayRule(("M",), ("int32",))),
    **dict.fromkeys(("part", "group", "counts"), ArrayRule(("n",), ("int32",))),
    "missing": ArrayRule(("n",), ("uint8",)),
    "offset": ArrayRule(("K",), ("int64",)),
    "edges": ArrayRule(("n", "L"), ("float64",)),
    "codes": ArrayRule(("n", "L + 1"), ("uint8",)),
}
_WEIGHT_TYPES = ("uint8", "int32", "int64", "float32", "float64")
#: What a file calls the dimensions of arrays.
_DIMENSIONS = {
    "M": "box", "n": "feature", "K": "class", "L": "edge", "L + 1": "level",
}  # fmt: skip
#: Rows of boxes in a chunk.
_CHUNK = 1024


def _fits(said: Mapping[str, Any]) -> str | None:
    """Return how the attributes of a model do not fit each other, or None."""
    features = math.prod(said["feature_shape"])
    if said["group_size"] > features:
        return f"group_size is {said['group_size']} and there are {features} features"
    if len(said.get("columns", ())) not in (0, features):
        return f"there are {len(said['columns'])} columns and {features} features"
    return None


def _settings_fit(said: Mapping[str, Any]) -> str | None:
    """Return how the settings of base classifiers do not fit, or None."""
    features, size = math.prod(said["feature_shape"]), _SIZES.get(said["method"])
    group_size = said["settings"]["base"].get("group_size", 1)
    if type(group_size) is not int or group_size < 1 or features % group_size:
        return f"groups of {group_size} do not divide {features} features"
    groups = features // group_size
    if size is not None and said["settings"].get(size, 0) not in range(1, groups + 1):
        return f"its {size} are not 1..{groups}"
    return None


#: Which setting says how many features a base classifier sees, or how many there are.
_SIZES = {"ra": "retained", "fpa": "parts"}
_SHARED = {
    "classes": CLASSES,
    "feature_shape": FEATURE_SHAPE,
    "training": TRAINING,
    "digests": mapped(DIGEST),
}
MODEL = Schema(
    FORMAT,
    VERSION,
    ModelFileError,
    "copy it again or train it again",
    {
        "width": whole(1, 255),
        "group_size": whole(1, MOST_FEATURES),
        "members?": whole(2, MOST_MEMBERS),
        "columns?": COLUMNS,
        **_SHARED,
    },
    _fits,
)
BASELINE = Schema(
    BASELINE_FORMAT,
    BASELINE_VERSION,
    ModelFileError,
    MODEL.remedy,
    {
        "method": one_of(METHODS),
        "settings": record(
            {
                "base": OBJECT,
                **dict.fromkeys(("retained?", "parts?", "rounds?"), whole(1, MOST_FEATURES)),
                "partition?": TEXT,
            }
        ),
        **_SHARED,
    },
    _settings_fit,
)


def save_model(model: BoxNN, path: Name, *, overwrite: bool = False, no_lock: bool = False) -> None:
    """Write a model as a Zarr v3 group.

    Parameters
    ----------
    model
        The model.
    path
        A directory to make, or a single file if it ends in ``.zip``; or its URL.
    overwrite
        Replace what is at `path`.
    no_lock
        Do not look whether another process writes the same output.

    Raises
    ------
    OptionError
        `path` exists, or its folder does not.
    OutputError
        The file cannot be written.
    """
    single = str(path).endswith(".zip")
    with staged_output(path, overwrite=overwrite, directory=not single, no_lock=no_lock) as partial:
        write_model(model, partial, single)


def write_model(model: BoxNN | BaselineModel, path: Location, single: bool) -> None:
    """Write either kind of model to a path that a caller has staged; as one file if `single`."""
    if single and not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / path.name
            write_model(model, file, single)
            put(path, file.read_bytes())
        return
    arrays = _arrays(model)
    attributes = _attributes(model, arrays)
    size = sum(array.nbytes for array in arrays.values())
    wrong = (MODEL if isinstance(model, BoxNN) else BASELINE).problem(attributes)
    if wrong or size > MOST_MODEL:
        wrong = wrong or f"its arrays have {size} bytes, more than {MOST_MODEL}; train fewer boxes"
        raise InputError(f"the model cannot be written: {wrong}")
    if single and isinstance(path, Path):
        store: Store = ZipStore(path, mode="w")
    else:
        store = zarr_format.tree_store(path)
    try:
        group = zarr.create_group(store, overwrite=not single, attributes=attributes)
        for name, array in arrays.items():
            chunks = tuple(max(1, min(_CHUNK, size)) for size in array.shape[:1]) + array.shape[1:]
            # Another than what the array holds: a chunk that is lost is not read as what it was.
            fill = int(array.size > 0 and array.flat[0] == 0)
            target = zarr_format.create_array(
                group, name, array.shape, array.dtype, chunks, fill, dims=_dims(name, array.ndim)
            )
            target[...] = array
    finally:
        store.close()


def _dims(name: str, ndim: int) -> tuple[str, ...]:
    """Return the names of an array's dimensions; those of weights are its own."""
    last = name.rpartition("/")[2]
    if name.startswith(_WEIGHTS):
        return tuple(f"{last}_{axis}" for axis in range(ndim))
    return tuple(_DIMENSIONS[size] for size in _ARRAYS[last].dims)


def _arrays(model: BoxNN | BaselineModel) -> dict[str, np.ndarray]:
    if isinstance(model, BaselineModel):
        arrays = {f"{_WEIGHTS}{name}": array for name, array in model.weights.items()}
    else:
        # In an ensemble under other names, so that nothing takes the first set for the model.
        folders = [f"{number}/" for number in range(len(model.box_sets))] if model.others else [""]
        arrays = {
            f"{folder}{name}": array
            for folder, boxes in zip(folders, model.box_sets, strict=True)
            for name, array in (
                ("lower", boxes.lower), ("upper", boxes.upper), ("label", boxes.labels),
                ("template", boxes.template), ("part", boxes.part), ("group", boxes.group),
            )
        }  # fmt: skip
        arrays["offset"] = model.offset
    if model.grid is not None:
        arrays |= {"grid/edges": model.grid.edges, "grid/counts": model.grid.counts}
        if not model.grid.is_plain:
            arrays["grid/codes"] = model.grid.codes
        if model.grid.missing is not None:
            arrays["grid/missing"] = model.grid.missing
    return arrays


def _attributes(
    model: BoxNN | BaselineModel, arrays: dict[str, np.ndarray], version: int = VERSION
) -> dict[str, Any]:
    if isinstance(model, BaselineModel):
        own = {
            "format": BASELINE_FORMAT,
            "version": BASELINE_VERSION,
            "method": model.method,
            "settings": model.settings,
        }
    else:
        own = {
            "format": FORMAT,
            "version": version,
            "width": model.boxes.width,
            "group_size": model.group_size,
            **({"members": len(model.box_sets)} if model.others else {}),
            **({"columns": model.columns.as_list()} if model.columns is not None else {}),
        }
    attributes = {
        **own,
        "classes": list(model.classes),
        "feature_shape": list(model.feature_shape or ()),
        "training": model.training,
        "digests": {name: zarr_format.array_digest(array) for name, array in arrays.items()},
    }
    return zarr_format.with_digest(attributes)


def load_model(path: Name) -> BoxNN:
    """Read a model and check all of it.

    Parameters
    ----------
    path
        A model written by `save_model` or ``boxnn train``, or its URL.

    Returns
    -------
    BoxNN

    Raises
    ------
    ModelFileError
        The file is missing, damaged, truncated, not a model, or of a newer version.
    """
    with _opened(path, MODEL) as (attributes, arrays):
        boxes, *others = _box_sets(attributes, arrays)
        return BoxNN(
            boxes,
            attributes["classes"],
            _grid(arrays),
            tuple(attributes["feature_shape"]),
            attributes["group_size"],
            attributes["training"],
            tuple(others),
            arrays["offset"] if attributes["version"] > 1 else None,  # type: ignore[arg-type]
            Columns.from_list(attributes["columns"]) if "columns" in attributes else None,
        )


def _box_sets(attributes: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[Boxes]:
    stored = sum(name.endswith("label") for name in arrays)
    count = validation.integer("members", attributes.get("members", 1), stored, stored)
    folders = [f"{number}/" for number in range(count)] if count > 1 else [""]
    width, n_classes = attributes["width"], len(attributes["classes"])
    structure = _STRUCTURE if attributes["version"] > 1 else ()
    return [
        Boxes(
            arrays[f"{at}lower"], arrays[f"{at}upper"], arrays[f"{at}label"], width, n_classes,
            **{name: arrays[f"{at}{name}"] for name in structure},
        )
        for at in folders
    ]  # fmt: skip


def load_baseline(path: Name) -> BaselineModel:
    """Read the base classifiers of a published defence and check all of the file.

    Parameters
    ----------
    path
        Folder or ``.zip`` file written by ``boxnn baseline ra train``, ``fpa train`` or
        ``stumps train``, or its URL.

    Returns
    -------
    BaselineModel

    Raises
    ------
    ModelFileError
        The file is missing, damaged, truncated, not a baseline, or of a newer version.
    """
    with _opened(path, BASELINE) as (attributes, arrays):
        weights = {
            name.removeprefix(_WEIGHTS): array
            for name, array in arrays.items()
            if name.startswith(_WEIGHTS)
        }
        return BaselineModel(
            attributes["method"],
            attributes["settings"],
            attributes["classes"],
            tuple(attributes["feature_shape"]),
            weights,
            _grid(arrays),
            attributes["training"],
        )


def _grid(arrays: dict[str, np.ndarray]) -> Grid | None:
    if "grid/edges" not in arrays:
        return None
    optional = {name: arrays.get(f"grid/{name}") for name in ("codes", "missing")}
    return Grid(arrays["grid/edges"], arrays["grid/counts"], **optional)  # type: ignore[arg-type]


@contextlib.contextmanager
def _opened(path: Name, schema: Schema) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Yield attributes and checked arrays; what the body misses in them is a damaged file."""
    file = zarr_format.open_file(path, schema)
    try:
        yield file.attributes, _read_arrays(file)
    except ModelFileError:
        raise
    except (BoxNNError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise file.incomplete(error) from error
    finally:
        file.close()


def _read_arrays(file: zarr_format.StoredFile) -> dict[str, np.ndarray]:
    """Return the arrays of a model; what they take in all is known before any is read."""
    said = file.attributes
    known = {"n": math.prod(said["feature_shape"]), "K": len(said["classes"])}
    sizes: dict[str, dict[str, int]] = {}
    arrays = {}
    for name in said["digests"]:
        folder, _, last = name.rpartition("/")
        # A set of boxes has sizes of its own, and so has each weight.
        file.sizes = sizes.setdefault(folder, dict(known))
        if name.startswith(_WEIGHTS):
            arrays[name] = file.array(name, None, _WEIGHT_TYPES)
        elif last in _ARRAYS:
            arrays[name] = file.array(name, _ARRAYS[last])
        else:
            raise file.incomplete(f"{name!r:.60} is none of its arrays")
    if sum(array.nbytes for array in arrays.values()) > MOST_MODEL:
        raise file.incomplete(f"its arrays have more than {MOST_MODEL} bytes")
    return {name: file.read(name, array) for name, array in arrays.items()}


def model_digest(model: BoxNN | BaselineModel) -> str:
    """Return the SHA-256 that identifies a model's content (its attributes cover its arrays).

    A model that the first version of the format can hold has the digest of that version, which the
    certificates of old files name.
    """
    arrays, version = _arrays(model), VERSION
    if isinstance(model, BoxNN) and _is_of_version_1(model):
        names = (*_STRUCTURE, "offset")
        arrays = {k: v for k, v in arrays.items() if k.rpartition("/")[2] not in names}
        version = 1
    return str(_attributes(model, arrays, version)["digest"])


def _is_of_version_1(model: BoxNN) -> bool:
    structures = [boxes.structure for boxes in model.box_sets]
    return not model.offset.any() and not any(
        found.is_grouped or found.n_parts > 1 or len(found.rows) <= found.rows[-1]
        for found in structures
    )


def trained_columns(model: BoxNN | BaselineModel) -> Columns | None:
    """Return the columns that a model was trained on, if its data were a table."""
    if isinstance(model, BoxNN):
        return model.columns
    listed = model.training.get("columns")
    return None if listed is None else Columns.from_list(listed)
