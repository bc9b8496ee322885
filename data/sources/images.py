"""Images: a folder or a zip of files, with a folder for each class, decoded block by block.

Images for an existing model need no folders of classes, and are named by their files.
"""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from boxnn_numba.data.sources.blocks import BLOCK_BYTES, UNLABELLED, Block, Like, Table, reading
from boxnn_numba.errors import DataError, first_line

#: Endings of the files that are taken; others are left alone.
ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
#: Names of the folders of a split.
SPLIT_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
#: Modes of Pillow whose values are bytes; of them those without colours.
_MODES, _GREY = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"}, {"1", "L", "LA"}
_LAYOUT = "lay images out as CLASS/NAME.png, or train/CLASS/NAME.png and test/CLASS/NAME.png"

#: What the names of files are called, of images for a model.
_ID = "image"

#: A class and a file.
Labelled = tuple[str, str]


class ImageTable(Table):
    """Images of one size, their folder's name being the label.

    Parameters
    ----------
    place
        The folder or archive.
    files
        Class and name of each image, in order.
    opener
        Opens an image by its name.
    shape
        Rows and columns, and 3 where they have colours.
    id_name
        What the names of the files are called, where rows are named by them.
    """

    is_uint8 = True

    def __init__(
        self,
        place: str,
        files: Sequence[Labelled],
        opener: Callable[[str], IO[bytes]],
        shape: tuple[int, ...],
        id_name: str | None = None,
    ) -> None:
        self.place = place
        self.id_name = id_name
        self.feature_shape = shape
        self._files = files
        self._opener = opener
        self._step = max(1, BLOCK_BYTES // self.n_features)

    def scan(self) -> Iterator[Block]:
        """Yield the labels."""
        for start, files in self._pieces():
            yield self._block(np.empty((len(files), 0)), files, start)

    def blocks(self) -> Iterator[Block]:
        """Decode all images in order."""
        for start, files in self._pieces():
            x = np.stack([self._decoded(name) for _, name in files])
            yield self._block(x.reshape(len(files), -1), files, start)

    def _block(self, x: np.ndarray, files: Sequence[Labelled], start: int) -> Block:
        labels, names = zip(*files, strict=True)
        if self.id_name is None:
            return Block(x, np.array(labels), start)
        # Names of files may be no text of Unicode.
        shown = [name.encode(errors="replace").decode() for name in names]
        return Block(x, np.array(labels), start, ids=np.array(shown))

    def _pieces(self) -> Iterator[tuple[int, Sequence[Labelled]]]:
        for start in range(0, len(self._files), self._step):
            yield start, self._files[start : start + self._step]

    def _decoded(self, name: str) -> np.ndarray:
        place = f"image {name} of {self.place}"
        with _image(place, self._opener, name) as image:
            if (image.height, image.width) != self.feature_shape[:2]:
                raise DataError(
                    f"{place} has {image.height} x {image.width} pixels and the first one "
                    f"{self.feature_shape[0]} x {self.feature_shape[1]}; make them equal"
                )
            return np.asarray(image.convert("RGB" if len(self.feature_shape) > 2 else "L"))


def image_tables(path: Path, like: Like | None = None) -> tuple[ImageTable, ImageTable | None]:
    """Return the images of a folder or zip: the training split, and the test split if it has one.

    They have colours if any of them has. If they are `like` those of a model, they have colours if
    its samples have, all are in one split, and `path` may be a single image; those outside folders
    of its classes have no label.
    """
    if like is not None and not (like.codes and like.columns is None):
        kind = "a table" if like.columns is not None else "real numbers"
        raise DataError(
            f"{path} holds images, and the model is of {kind}; pass samples of its kind"
        )
    if path.is_dir() or is_image(path):
        folder = path if path.is_dir() else path.parent
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        names = [str(file.relative_to(folder).as_posix()) for file in files if file.is_file()]
        return _tables(str(folder), names, lambda name: (folder / name).open("rb"), like)
    with reading(str(path)):
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if name[-1:] != "/"]
    return _tables(str(path), names, archive.open, like)


def is_image(path: Path) -> bool:
    """Say whether a path is an image file."""
    return path.is_file() and path.suffix.lower() in ENDINGS


def is_zip(path: Path) -> bool:
    """Say whether a path has the ending of a zip."""
    return path.suffix.lower() == ".zip"


def holds_images(path: Path) -> bool:
    """Say whether a path is an image file, a zip or a folder with images."""
    return is_image(path) or is_zip(path) or (path.is_dir() and has_images(path))


def has_images(folder: Path) -> bool:
    """Say whether there is an image somewhere in a folder."""
    return any(_is_image(path.relative_to(folder).as_posix()) for path in folder.rglob("*.*"))


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return path.suffix.lower() in ENDINGS and not hidden


def _by_split(place: str, names: Sequence[str]) -> dict[str, list[Labelled]]:
    """Return class and name of the images of each split."""
    parts = [PurePosixPath(name).parts for name in names]
    # A folder around everything, as archives often have, says nothing.
    while (
        len({found[0] for found in parts}) == 1
        and min(map(len, parts)) > 2
        and parts[0][0].lower() not in SPLIT_FOLDERS
    ):
        parts = [found[1:] for found in parts]
    found: dict[str, list[Labelled]] = {"train": [], "test": []}
    splits = [SPLIT_FOLDERS.get(folders[0].lower()) for folders in parts]
    named = all(
        split is not None and len(folders) > 2 for split, folders in zip(splits, parts, strict=True)
    )
    for name, folders, split in zip(names, parts, splits, strict=True):
        if len(folders) != 2 + named:
            raise DataError(f"{place} has {name}; {_LAYOUT}")
        found[str(split) if named else "train"].append((folders[-2], name))
    if not found["train"]:
        raise DataError(f"{place} has no training images; {_LAYOUT}")
    return found


def _by_class(names: Sequence[str], classes: Sequence[Any]) -> dict[str, list[Labelled]]:
    """Return class and name of images; those of a folder that is no class have no label."""
    known = set(map(str, classes))
    folders = ((PurePosixPath(name).parent.name, name) for name in names)
    found = [(folder if folder in known else UNLABELLED, name) for folder, name in folders]
    return {"train": found, "test": []}


def _tables(
    place: str,
    names: Sequence[str],
    opener: Callable[[str], IO[bytes]],
    like: Like | None,
) -> tuple[ImageTable, ImageTable | None]:
    """Return the images among some files, by split; see `image_tables`."""
    names = sorted(filter(_is_image, names))
    if not names:
        raise DataError(f"{place} has no images; {_LAYOUT if like is None else 'pass some'}")
    splits = _by_split(place, names) if like is None else _by_class(names, like.classes)
    shape: tuple[int, ...] = ()
    for _, name in [*splits["train"], *splits["test"]]:
        with _image(f"image {name} of {place}", opener, name) as image:
            shape = shape or (image.height, image.width)
            if image.mode not in _GREY or (like is not None and like.feature_shape[2:] == (3,)):
                shape = (*shape, 3)
                break
    train, test = (
        ImageTable(place, splits[split], opener, shape, None if like is None else _ID)
        if splits[split]
        else None
        for split in ("train", "test")
    )
    assert train is not None
    return train, test


@contextlib.contextmanager
def _image(place: str, opener: Callable[[str], IO[bytes]], name: str) -> Iterator[Any]:
    """Open an image as a viewer shows it, upright, and close it and its file."""
    from PIL import Image, ImageOps

    try:
        with (
            reading(place),
            warnings.catch_warnings(),
            opener(name) as file,
            Image.open(file) as image,
        ):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.mode not in _MODES:
                raise DataError(
                    f"{place} has pixels of mode {image.mode}; save it with 8 bits a colour"
                )
            ImageOps.exif_transpose(image, in_place=True)
            yield image
    except (Image.DecompressionBombError, SyntaxError, Image.DecompressionBombWarning) as error:
        raise DataError(f"cannot read {place}: {first_line(error)}; leave it away") from error
