"""Which test samples a report shows, and the images of their nearest boxes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba.errors import CertificateFileError
from boxnn_numba.pipelines.runs import Run

if TYPE_CHECKING:
    from boxnn_numba.boxes import Boxes

#: Groups in which samples are shown, and what is in them.
GROUPS = {
    "worst": "right, smallest radius",
    "median": "right, middle radius",
    "best": "right, largest radius",
    "wrong": "misclassified, largest radius",
}
#: Larger images are shown reduced: a page holds hundreds of them.
LONGEST_SIDE = 64


@dataclass(frozen=True)
class Sample:
    """A sample of a run chosen for the report.

    Parameters
    ----------
    index
        Row in the split of the data set.
    group
        Key of `GROUPS`.
    overall
        Chosen among all samples; otherwise only among those of its class.
    label, prediction, rival
        Indices of the true class (-1 unknown), the predicted one and the rival that limits
        the radius.
    radius
        Certified radius of the prediction.
    own_distance, rival_distance
        Distance to the nearest box of the predicted and of the rival class, in features.
    names
        Names of the true, the predicted and the rival class.
    """

    index: int
    group: str
    overall: bool
    label: int
    prediction: int
    rival: int
    radius: int
    own_distance: float
    rival_distance: float
    names: tuple[str, str, str]

    @property
    def label_name(self) -> str:
        """Name of the true class."""
        return self.names[0]

    @property
    def predicted_name(self) -> str:
        """Name of the predicted class."""
        return self.names[1]

    @property
    def rival_name(self) -> str:
        """Name of the rival class."""
        return self.names[2]


@dataclass(frozen=True, eq=False)
class Picture(Sample):
    """A sample with its images: itself, own box lower and upper, rival box lower and upper."""

    images: tuple[np.ndarray, ...]


def is_image(feature_shape: Sequence[int]) -> bool:
    """Return whether features can be drawn: (h, w), (h, w, 1) or RGB (h, w, 3)."""
    shape = tuple(feature_shape)
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def select_samples(run: Run, overall: int = 6, per_class: int = 2) -> list[Sample]:
    """Choose the samples of each group, over all classes and within each.

    Parameters
    ----------
    run
        A run with class distances.
    overall
        Samples a group over all classes.
    per_class
        Samples a group and class.

    Returns
    -------
    list of Sample
        Those over all classes first, then one round of the classes after another, so that
        any first part of the list is a sensible choice. Equal radii go by row.
    """
    everywhere = np.flatnonzero(run.label >= 0)
    chosen: dict[tuple[str, int], bool] = {}
    for group, rows in _ranked(run, everywhere, overall).items():
        chosen.update({(group, int(row)): True for row in rows})
    of_class = [np.flatnonzero(run.label == index) for index in range(len(run.classes))]
    ranked = [_ranked(run, rows, per_class) for rows in of_class]
    for turn in range(per_class):
        for group in GROUPS:
            for groups in ranked:
                for row in groups[group][turn : turn + 1]:
                    chosen.setdefault((group, int(row)), False)
    return _described(run, chosen)


def _ranked(run: Run, rows: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return up to `count` of the rows for each group, the most telling first."""
    correct = run.prediction[rows] == run.label[rows]
    right, wrong = rows[correct], rows[~correct]
    right = right[np.argsort(run.radius[right], kind="stable")]
    wrong = wrong[np.argsort(-run.radius[wrong].astype(np.int64), kind="stable")]
    start = max(0, (len(right) - count) // 2)
    return {
        "worst": right[:count],
        "median": right[start : start + count],
        "best": right[::-1][:count],
        "wrong": wrong[:count],
    }


def _described(run: Run, chosen: dict[tuple[str, int], bool]) -> list[Sample]:
    if run.class_distance is None or not chosen:
        return []
    rows = np.array([row for _, row in chosen])
    distance = np.asarray(run.class_distance[rows], dtype=np.int64)
    prediction = run.prediction[rows]
    # The rival that limits the radius: ties count for a rival of smaller index.
    slack = distance - (np.arange(distance.shape[1]) < prediction[:, None])
    slack[np.arange(len(rows)), prediction] = np.iinfo(np.int64).max
    rival = slack.argmin(axis=1)
    width = int(run.attributes["width"])
    samples = []
    for position, ((group, row), overall) in enumerate(chosen.items()):
        label, own, other = int(run.label[row]), int(prediction[position]), int(rival[position])
        samples.append(
            Sample(
                row if run.row is None else int(run.row[row]),
                group,
                overall,
                label,
                own,
                other,
                int(run.radius[row]),
                float(distance[position, own]) / width,
                float(distance[position, other]) / width,
                (_name(run, label), _name(run, own), _name(run, other)),
            )
        )
    return samples


def _name(run: Run, index: int) -> str:
    return str(run.classes[index]) if index >= 0 else "unknown"


def draw_samples(run: Run, samples: Sequence[Sample], x: np.ndarray, model: Any) -> list[Picture]:
    """Add to each sample its image and those of its nearest own and rival box.

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
    codes = np.asarray(model.encode(x))
    own, own_distance = _nearest(codes, model.boxes, [sample.prediction for sample in samples])
    rival, rival_distance = _nearest(codes, model.boxes, [sample.rival for sample in samples])
    width = model.boxes.width
    stored = [(sample.own_distance, sample.rival_distance) for sample in samples]
    if not np.allclose(np.column_stack([own_distance, rival_distance]) / width, stored):
        raise CertificateFileError(
            f"{run.path} holds class distances that its model and data do not give; "
            "certify the data set again"
        )
    brightest = int(codes.max())
    stretch = 255 / brightest if 0 < brightest < 128 else 1.0
    lower, upper = model.boxes.lower, model.boxes.upper
    pictures = []
    for position, sample in enumerate(samples):
        nearest = own[position], rival[position]
        bounds = (bound[box] for box in nearest for bound in (lower, upper))
        flat = (codes[position], *bounds)
        images = tuple(_as_image(values, model.feature_shape, stretch) for values in flat)
        pictures.append(Picture(**vars(sample), images=images))
    return pictures


def _nearest(
    codes: np.ndarray, boxes: Boxes, classes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest box of the given class of each row, and its distance in units."""
    from boxnn_numba import pairwise_distance

    distance = np.asarray(pairwise_distance(codes, boxes)).astype(np.int64)
    distance[np.asarray(classes)[:, None] != np.asarray(boxes.labels)] = np.iinfo(np.int64).max
    nearest = distance.argmin(axis=1)
    return nearest, distance[np.arange(len(nearest)), nearest]


def _as_image(flat: np.ndarray, shape: Sequence[int], stretch: float) -> np.ndarray:
    image = flat.reshape(shape).astype(np.float64) * stretch
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    factor = -(-max(image.shape[:2]) // LONGEST_SIDE)
    if factor > 1:
        margins = [(0, -image.shape[0] % factor), (0, -image.shape[1] % factor), (0, 0)]
        image = np.pad(image, margins[: image.ndim], mode="edge")
        height, width = image.shape[0] // factor, image.shape[1] // factor
        image = image.reshape(height, factor, width, factor, *image.shape[2:]).mean(axis=(1, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


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
