"""Catalogue of sources: the named data sets, and users' own files."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba.data.paths import Location, is_url, location
from boxnn_numba.data.sources import cifar
from boxnn_numba.data.sources.arrays import NO_NAMES, Names, npy_rows, npz_tables
from boxnn_numba.data.sources.blocks import ArrayTable, Like, MemoryRows, Table
from boxnn_numba.data.sources.cells import COMPRESSED, Reader, is_table, is_text, open_table
from boxnn_numba.data.sources.idx import idx_table, idx_tables, is_idx
from boxnn_numba.data.sources.images import has_images, image_tables, is_image, is_zip
from boxnn_numba.data.sources.stores import is_store, label_rows, object_tables, store_tables
from boxnn_numba.data.sources.tables import DEFAULT_TABLE, FrameTable, TableOptions
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.progress import SILENT, Progress

BUNDLED_SAMPLE = Path(__file__).parents[1] / "bundled" / "mnist-sample.npz"

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class Mirror:
    """Official files of a data set.

    `url` is the folder that has the `files`, `sha256` are the digests of these, and
    `system_folders` are where a distribution's package puts them.
    """

    url: str
    sha256: tuple[str, ...]
    system_folders: tuple[str, ...] = ()
    files: tuple[str, ...] = FILES


MIRRORS = {
    "mnist": Mirror(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": Mirror(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        ("/usr/share/datasets/fashion-mnist",),  # Debian's dataset-fashion-mnist
    ),
    "cifar-10": Mirror(
        "https://www.cs.toronto.edu/~kriz/",
        ("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",),
        files=(cifar.ARCHIVE,),
    ),
}

#: name -> what it is
NAMED = {
    "mnist": "handwritten digits, 60,000 + 10,000 images of 28 x 28, 10 classes",
    "fashion-mnist": "articles of clothing, 60,000 + 10,000 images of 28 x 28, 10 classes",
    "cifar-10": "photographs, 50,000 + 10,000 images of 32 x 32 with colours, 10 classes",
    "digits": "scikit-learn's handwritten digits, 1,797 images of 8 x 8, 10 classes",
    "mnist-sample": "the first 10,000 + 2,000 images of MNIST, bundled with this package",
}


@dataclass(frozen=True)
class Source:
    """Data that can be ingested.

    Attributes
    ----------
    name : str
        What to call the dataset.
    description : str
        Where it comes from; the same wherever the files lie.
    train : Table
        Training split, or all rows where there is no test split.
    test : Table or None
        Test split, if the source has one.
    """

    name: str
    description: str
    train: Table
    test: Table | None = None


def open_source(
    source: Any,
    *,
    directory: Path | None = None,
    labels: Any = None,
    names: Names = NO_NAMES,
    table: TableOptions = DEFAULT_TABLE,
    test: Path | None = None,
    like: Like | None = None,
) -> Source:
    """Find a source and check what can be checked without reading it all.

    Parameters
    ----------
    source
        A name of `NAMED`, or a path: a folder or file of IDX, a folder or zip of images, ``.npz``,
        ``.npy``, a Zarr array or group or their URL, a file of netCDF, or a table, ``.csv``,
        ``.tsv`` or ``.parquet``, optionally with ``.gz`` or ``.zst``. Or an array, or arrays by
        name, as in `boxnn_numba.data.sources.stores`.
    directory
        Folder of the files of ``mnist``, ``fashion-mnist`` and ``cifar-10``.
    labels
        Labels of one array: the path of an ``.npy`` or IDX file or of a Zarr array, or an array.
    names
        Of the arrays in an archive, a group or a file of netCDF.
    table
        How to read a table.
    test
        A second table, the test split.
    like
        Where the data are for an existing model: labels may then be missing.

    Raises
    ------
    OptionError
        Options do not go with the source.
    DataError
        The source is missing, damaged or not understood.
    """
    in_arrays = {"x": names.x, "y": names.y}
    if isinstance(source, str) and source in NAMED:
        _refuse_options(source, labels=labels, test=test, **in_arrays, **table.given())
        return _named(source, directory)
    if not isinstance(source, str) or is_url(source) or is_store(source):
        _refuse_options(_called(source), directory=directory, test=test, **table.given())
        return _stored(source, names, labels, like is None)
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"{source} is neither a file nor a known data set ({', '.join(NAMED)}); check the path"
        )
    _refuse_options(source, directory=directory)
    if is_table(path) or (table.sep is not None and path.is_file()):
        _refuse_options(source, labels=labels, **in_arrays)
        return _tables(path, table, test, like)
    _refuse_options(source, test=test, **table.given())
    return _open_path(path, labels, names, like)


def _called(source: Any) -> str:
    return source if isinstance(source, str) else "an array"


def _stored(source: Any, names: Names, labels: Any, need_labels: bool) -> Source:
    """Open arrays in a store, or array objects."""
    given = None if labels is None else label_rows(labels)
    if not isinstance(source, str):
        tables = object_tables(source, names, given, need_labels)
        return Source("data", "arrays in memory", *tables)
    path = location(source)
    if not is_store(path):
        raise DataError(f"{source} is no Zarr array or group; check the URL")
    return Source(_stem(path), path.name, *store_tables(path, names, given, need_labels))


def _named(source: str, directory: Path | None) -> Source:
    if source == "cifar-10":
        return Source(
            source, "cifar-10 (official binary files)",
            *cifar.cifar_tables(directory or _find(source)),
        )  # fmt: skip
    if source in MIRRORS:
        return Source(
            source, f"{source} (official IDX files)", *idx_tables(directory or _find(source))
        )
    _refuse_options(source, directory=directory)
    if source == "digits":
        return Source(source, "digits (scikit-learn)", _digits())
    return Source(source, "mnist-sample (bundled)", *npz_tables(BUNDLED_SAMPLE))


def available(name: str) -> str | None:
    """Say where a named data set would be read from; None where it must be fetched first."""
    if name not in MIRRORS:
        return "built in"
    return next((str(folder) for folder in _folders(name) if _is_complete(name, folder)), None)


def fetch(name: str, progress: Progress = SILENT) -> Path:
    """Download the official files of a data set and check their SHA-256.

    Files already there and sound are not downloaded again.

    Parameters
    ----------
    name
        A name of `MIRRORS`.
    progress
        Is told of each file that is there.

    Returns
    -------
    Path
        The folder: ``$BOXNN_DATA/<name>``, or one in the user's cache.

    Raises
    ------
    OptionError
        It is not a data set that can be fetched.
    DataError
        A download failed, or is not the official file.
    """
    if name not in MIRRORS:
        known = ", ".join(MIRRORS)
        hint = "is built in" if name in NAMED else "is unknown"
        raise OptionError(f"{name} {hint}; boxnn data fetch knows {known}")
    import pooch

    pooch.get_logger().setLevel("WARNING")
    mirror = MIRRORS[name]
    folder = _folders(name)[0 if os.environ.get("BOXNN_DATA") else -1]
    progress.start(len(mirror.files), "files")
    for file, sha256 in zip(mirror.files, mirror.sha256, strict=True):
        try:
            pooch.retrieve(
                mirror.url + file,
                known_hash=f"sha256:{sha256}",
                fname=file,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=30),
            )
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was downloaded before
            # Connection errors tell their story over several lines: their type must do.
            reason = (
                "it is not the official file"
                if isinstance(error, ValueError)
                else type(error).__name__
            )
            raise DataError(
                f"could not download {mirror.url}{file} ({reason}); copy {file} by hand and run "
                f"`boxnn data ingest {name} --from DIR`"
            ) from error
        progress.advance(1)
    return folder


def _open_path(path: Path, labels: Any, names: Names, like: Like | None) -> Source:
    name, need_labels = _stem(path), like is None
    if path.suffix == ".npz":
        _refuse_options(str(path), labels=labels)
        return Source(name, path.name, *npz_tables(path, need_labels, names))
    _refuse_options(str(path), x=names.x, y=names.y)
    if path.is_dir() or is_zip(path) or (like is not None and is_image(path)):
        _refuse_options(str(path), labels=labels)
        if path.is_dir() and not has_images(path):
            return Source(path.resolve().name, "IDX files", *idx_tables(path))
        return Source(path.resolve().stem, "image files", *image_tables(path, like))
    is_npy = path.suffix == ".npy"
    if not is_npy and not is_idx(path):
        raise DataError(
            f"{path} is of no known kind; pass IDX, .npz, .npy, Zarr, .nc, .csv, .tsv, .parquet or "
            "images, or say what stands between the cells of a table with `sep`"
        )
    if labels is None and (need_labels or not is_npy):
        raise OptionError(f"{path} has no labels; name their file with `labels`")
    named = isinstance(labels, (str, os.PathLike))
    about = f"{path.name}, labels {Path(labels).name}" if named else path.name
    if is_npy:
        rows = None if labels is None else label_rows(labels)
        return Source(name, about, ArrayTable(npy_rows(path), rows))
    if not named or not Path(labels).exists():
        raise DataError(f"{labels} does not exist; check the path given to `labels`")
    return Source(name, about, idx_table(path, Path(labels)))


def _tables(path: Path, options: TableOptions, test: Path | None, like: Like | None) -> Source:
    """Open a table, and the one of the test split."""
    said = {"test": test, "split_column": options.split_column, "like": like}
    both = [name for name, value in said.items() if value is not None]
    if len(both) > 1:
        raise OptionError(
            f"`{both[0]}` and `{both[1]}` both say which rows are for testing; pass one"
        )
    reader = open_table(path, options.sep)
    if like is not None:
        options = options.or_else(like.table, reader.names)
    columns = None if like is None else like.columns
    train = FrameTable(reader, options, columns, need_labels=like is None)
    about = [path.name]
    if options.label is not None:
        about.append(f"label column {options.label!r}")
    if test is None:
        return Source(_stem(path), ", ".join(about), train)
    if not test.exists():
        raise DataError(f"{test} does not exist; check the path given to `test`")
    second = open_table(test, options.sep if is_text(test) else None)
    return Source(
        _stem(path), ", ".join([*about, f"test rows {test.name}"]), train,
        FrameTable(second, _those_there(options, second), features=train.features,
                   need_labels=False),
    )  # fmt: skip


def _those_there(options: TableOptions, reader: Reader) -> TableOptions:
    """Return options without what a second table does not have: the label, dropped columns."""
    label = options.label if options.label in reader.names else None
    drop = tuple(name for name in options.drop if name in reader.names)
    return replace(options, label=label, drop=drop, categorical=(), numeric=())


def _stem(path: Location) -> str:
    name = path.name.removesuffix(path.suffix) if path.suffix in COMPRESSED else path.name
    return name.split(".")[0] or path.name


def _refuse_options(source: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise OptionError(f"`{option}` does not go with {source}; leave it away")


def _folders(name: str) -> list[Path]:
    """Return where the files of a data set are looked for: the user's folder first, if any."""
    root = os.environ.get("BOXNN_DATA")
    own = [Path(root) / name] if root else []
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    system = [Path(folder) for folder in MIRRORS[name].system_folders]
    return [*own, *system, cache / "boxnn-numba" / name]


def _is_complete(name: str, folder: Path) -> bool:
    if name == "cifar-10":
        return cifar.is_cifar(folder)
    return all(
        (folder / file).is_file() or (folder / file.removesuffix(".gz")).is_file() for file in FILES
    )


def _find(name: str) -> Path:
    folder = available(name)
    if folder is None:
        raise DataError(
            f"{name} is not on this machine; run `boxnn data fetch {name}` or pass `directory`, "
            f"the folder of its files ({', '.join(MIRRORS[name].files)})"
        )
    return Path(folder)


def _digits() -> ArrayTable:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    codes = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return ArrayTable(MemoryRows("digits", codes), MemoryRows("digits labels", bunch.target))
