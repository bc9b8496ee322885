"""What a report shows of a sample: images, or values of features, of it and its nearest boxes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from boxnn_numba.errors import CertificateFileError
from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report.gallery import Sample, attack_places

if TYPE_CHECKING:
    from boxnn_numba.boxes import Boxes
    from boxnn_numba.model import BoxNN

#: Larger images are shown reduced: a page holds hundreds of them.
LONGEST_SIDE = 64
#: Features in the table of a sample that is not an image.
MOST_FEATURES = 12


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack did to a sample.

    Parameters
    ----------
    changed
        Features or groups that it changed, -1 where it found nothing.
    predicted_name
        Name of the class that is predicted then.
    image, marks
        The changed image and where it differs, (h, w) bool; None where nothing was found or
        features are no image.
    """

    changed: int
    predicted_name: str
    image: np.ndarray | None = None
    marks: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Picture(Sample):
    """A sample with its images: itself, own box lower and upper, rival box lower and upper."""

    images: tuple[np.ndarray, ...]
    attack: Attack | None = None


class FeatureRow(NamedTuple):
    """A feature of a sample, as text: its values, those that boxes admit, and how far outside."""

    feature: str
    value: str
    attacked: str
    own: str
    own_outside: str
    rival: str
    rival_outside: str


@dataclass(frozen=True, eq=False)
class Features(Sample):
    """A sample with the features that tell its nearest boxes apart most, of `n_features`."""

    rows: tuple[FeatureRow, ...]
    n_features: int
    attack: Attack | None = None


def is_image(feature_shape: Sequence[int]) -> bool:
    """Return whether features can be drawn: (h, w), (h, w, 1) or RGB (h, w, 3)."""
    shape = tuple(feature_shape)
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


class _Nearest(NamedTuple):
    """Codes of samples, of what an attack made of them, and their nearest boxes."""

    codes: np.ndarray
    own: np.ndarray
    rival: np.ndarray
    attacked: list[tuple[np.ndarray, Attack] | None]


def _look_up(run: Run, samples: Sequence[Sample], x: np.ndarray, model: BoxNN) -> _Nearest:
    """Find the nearest own and rival box of samples, and what an attack made of each.

    Raises
    ------
    CertificateFileError
        The model does not give the class distances that the certificate holds.
    """
    codes = np.asarray(model.encode(x))
    classes = np.array([(sample.prediction, sample.rival) for sample in samples])
    stored = [(sample.own_distance, sample.rival_distance) for sample in samples]
    given = np.take_along_axis(model.class_distance(x), classes, axis=1)
    # Of an ensemble the mean over the sets of boxes is shown, and boxes of the first.
    if not np.allclose(given / (model.boxes.width * len(model.box_sets)), stored):
        raise CertificateFileError(
            f"{run.path} holds class distances that its model and data do not give; "
            "certify the data set again"
        )
    own, rival = (_nearest(codes, model.boxes, column) for column in classes.T)
    return _Nearest(codes, own, rival, _attacked(run, samples))


def _nearest(codes: np.ndarray, boxes: Boxes, classes: np.ndarray) -> np.ndarray:
    """Return the nearest box of the given class of each row."""
    from boxnn_numba import pairwise_distance

    distance = np.asarray(pairwise_distance(codes, boxes)).astype(np.int64)
    distance[classes[:, None] != np.asarray(boxes.labels)] = np.iinfo(np.int64).max
    return np.asarray(distance.argmin(axis=1))


def _attacked(run: Run, samples: Sequence[Sample]) -> list[tuple[np.ndarray, Attack] | None]:
    """Return the input that an attack made of each sample, None where it was not attacked."""
    if run.attack is None:
        return [None] * len(samples)
    file, places = run.attack, attack_places(run)
    found: list[tuple[np.ndarray, Attack] | None] = []
    for sample in samples:
        place = int(places[run.place(sample.index)])
        if place < 0:
            found.append(None)
        else:
            name = str(run.classes[int(file.prediction[place])])
            found.append((file.x[place], Attack(int(file.changed[place]), name)))
    return found


# --- images ----------------------------------------------------------------------------


def draw_samples(run: Run, samples: Sequence[Sample], x: np.ndarray, model: Any) -> list[Picture]:
    """Add to each sample its image, what an attack made of it, and those of its nearest boxes.

    Parameters
    ----------
    run
        Where the samples are from.
    samples
        At least one.
    x
        (len(samples), n) rows of the data set.
    model
        The `BoxNN` that made the certificate; its features form an image (`is_image`).

    Returns
    -------
    list of Picture
        Images are uint8, (h, w) or (h, w, 3), at most `LONGEST_SIDE` on a side. Codes that use
        less than half of the range are stretched to it.

    Raises
    ------
    CertificateFileError
        The model does not give the class distances that the certificate holds.
    """
    found = _look_up(run, samples, x, model)
    brightest = int(found.codes.max())
    stretch = 255 / brightest if 0 < brightest < 128 else 1.0
    shape, lower, upper = model.feature_shape, model.boxes.lower, model.boxes.upper
    pictures = []
    for position, sample in enumerate(samples):
        codes = found.codes[position]
        nearest = found.own[position], found.rival[position]
        bounds = (bound[box] for box in nearest for bound in (lower, upper))
        images = tuple(_as_image(values, shape, stretch) for values in (codes, *bounds))
        attack = None
        if (attacked := found.attacked[position]) is not None:
            written, attack = attacked
            if attack.changed > 0:
                other = np.asarray(model.encode(written[None]))[0]
                image, marks = _as_image(other, shape, stretch), _as_marks(other != codes, shape)
                attack = Attack(attack.changed, attack.predicted_name, image, marks)
        pictures.append(Picture(**vars(sample), images=images, attack=attack))
    return pictures


def _as_image(flat: np.ndarray, shape: Sequence[int], stretch: float) -> np.ndarray:
    image = flat.reshape(shape).astype(np.float64) * stretch
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    return np.clip(np.rint(_reduced(image, np.mean)), 0, 255).astype(np.uint8)


def _as_marks(differs: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    marks = np.asarray(differs.reshape(*shape[:2], -1).any(axis=2))
    return _reduced(marks, np.any)


def _reduced(image: np.ndarray, merge: Callable[..., np.ndarray]) -> np.ndarray:
    """Return an image of at most `LONGEST_SIDE` pixels a side, squares of pixels merged."""
    factor = -(-max(image.shape[:2]) // LONGEST_SIDE)
    if factor == 1:
        return image
    margins = [(0, -image.shape[0] % factor), (0, -image.shape[1] % factor), (0, 0)]
    image = np.pad(image, margins[: image.ndim], mode="edge")
    height, width = image.shape[0] // factor, image.shape[1] // factor
    squares = image.reshape(height, factor, width, factor, *image.shape[2:])
    return np.asarray(merge(squares, axis=(1, 3)))


def png(image: np.ndarray) -> bytes:
    """Encode an image as PNG.

    Parameters
    ----------
    image
        (h, w) grey or (h, w, 3) RGB, uint8.

    Returns
    -------
    bytes
        The file; the same image gives the same bytes.
    """
    height, width = image.shape[:2]
    colour_type = 2 if image.ndim == 3 else 0
    rows = image.reshape(height, -1)
    # Each row is preceded by its filter: 0, none.
    raw = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    body = zlib.compress(raw, 9)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


# --- features --------------------------------------------------------------------------


def tabulate_samples(
    run: Run, samples: Sequence[Sample], x: np.ndarray, model: BoxNN
) -> list[Features]:
    """Add to each sample the features that an attack changed or that tell its boxes apart most.

    Parameters
    ----------
    run, samples, x, model
        As for `draw_samples`, with features of any shape.

    Returns
    -------
    list of Features
        With up to `MOST_FEATURES` rows, in the order of the features.

    Raises
    ------
    CertificateFileError
        The model does not give the class distances that the certificate holds.
    """
    found = _look_up(run, samples, x, model)
    tables = []
    for position, sample in enumerate(samples):
        written, attack = found.attacked[position] or (x[position], None)
        boxes = [int(found.own[position]), int(found.rival[position])]
        rows = _feature_rows(model, x[position], found.codes[position], written, boxes)
        tables.append(Features(**vars(sample), rows=rows, n_features=x.shape[1], attack=attack))
    return tables


def _feature_rows(
    model: BoxNN, x: np.ndarray, codes: np.ndarray, written: np.ndarray, boxes: list[int]
) -> tuple[FeatureRow, ...]:
    lower, upper, width = model.boxes.lower[boxes], model.boxes.upper[boxes], model.boxes.width
    value = codes.astype(int)
    beyond = np.maximum(lower.astype(int) - value, value - upper.astype(int))
    outside = np.clip(beyond, 0, width) / width
    rank = np.abs(outside[1] - outside[0]) + np.where(written != x, 2.0, 0.0)
    chosen = np.sort(np.argsort(-rank, kind="stable")[:MOST_FEATURES])
    # Raw values that a box admits at each feature, first of the own box, then of the rival.
    say: Callable[[Any, Any], str] = _codes
    bounds = lower, upper
    if model.grid is not None:
        say, bounds = _range, model.grid.interval(lower, upper)
    admitted = [
        [say(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(*bounds, strict=True)
    ]
    return tuple(
        FeatureRow(
            str(at),
            _number(x[at]),
            _number(written[at]) if written[at] != x[at] else "",
            admitted[0][at],
            f"{outside[0, at]:.2f}",
            admitted[1][at],
            f"{outside[1, at]:.2f}",
        )
        for at in chosen
    )


def _number(value: Any) -> str:
    return f"{float(value):.5g}"


def _codes(lower: int, upper: int) -> str:
    return str(lower) if lower == upper else f"{lower} to {upper}"


def _range(low: float, high: float) -> str:
    """Say which raw values v have low <= v < high."""
    if low == high:
        return "none"
    if np.isneginf(low):
        return "any" if np.isposinf(high) else f"below {_number(high)}"
    return f"{_number(low)} or more" if np.isposinf(high) else f"{_number(low)} to {_number(high)}"
