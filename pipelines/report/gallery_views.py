"""Views of a sample: images, or values of features, of it and of its nearest boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from boxnn_numba.certificates.explanation import admitted, model_columns, value_text
from boxnn_numba.distances import UNREACHABLE
from boxnn_numba.errors import CertificateFileError
from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report.gallery import Attack, FeatureRow, Sample, attack_places
from boxnn_numba.rivals import assembled, nearest_rows

if TYPE_CHECKING:
    from boxnn_numba.model import BoxNN

#: Larger images are shown reduced: a page holds hundreds of them.
LONGEST_SIDE = 64
#: Features in the table of a sample that is not an image.
MOST_FEATURES = 12


def is_image(feature_shape: Sequence[int]) -> bool:
    """Return whether features can be drawn: (h, w), (h, w, 1) or RGB (h, w, 3)."""
    shape = tuple(feature_shape)
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def show_samples(run: Run, samples: Sequence[Sample], x: np.ndarray, model: BoxNN) -> list[Sample]:
    """Add to each sample what is shown of it, of its nearest boxes and of an attack on it.

    Boxes of templates are put together, each part from the row that is nearest there.

    `x` has the rows of the samples. They get images where features form one (`is_image`): uint8,
    (h, w) or (h, w, 3), at most `LONGEST_SIDE` on a side; codes that use less than half of the
    range are stretched to it. Others get up to `MOST_FEATURES` rows, in the order of the features.

    Raises
    ------
    CertificateFileError
        The model does not give the class distances that the certificate holds.
    """
    codes = np.asarray(model.encode(x))
    classes = np.array([(sample.prediction, sample.rival) for sample in samples])
    stored = [(sample.own_distance, sample.rival_distance) for sample in samples]
    # Of an ensemble the mean over the sets of boxes is shown, and boxes of the first.
    sets = [nearest_rows(codes, boxes, classes) for boxes in model.box_sets]
    total = np.minimum(sum(distance for _, distance in sets), UNREACHABLE)
    given = np.where(total < UNREACHABLE, total + model.offset[classes], UNREACHABLE)
    if not np.allclose(given / (model.boxes.width * len(sets)), stored):
        raise CertificateFileError(
            f"{run.path} holds class distances that its model and data do not give; "
            "certify the data set again"
        )
    brightest, shape = int(codes.max()), model.feature_shape or (codes.shape[1],)
    draw = _Drawing(shape, 255 / brightest if 0 < brightest < 128 else 1.0)
    places = attack_places(run)
    shown, kind = [], model.boxes.structure
    samples = [replace(each, parts=1 if kind.is_plain else kind.n_parts) for each in samples]
    for sample, values, own, rows in zip(samples, x, codes, sets[0][0], strict=True):
        place, bounds = places[run.place(sample.index)], assembled(model.boxes, rows)
        written, attack = _attacked(run, place) or (values, None)
        if not is_image(shape):
            lines = _feature_rows(model, values, own, written, bounds)
            shown.append(replace(sample, rows=lines, n_features=x.shape[1], attack=attack))
            continue
        if attack is not None and attack.changed > 0:
            other = np.asarray(model.encode(written[None]))[0]
            attack = replace(attack, image=draw.image(other), marks=draw.marks(other != own))
        images = tuple(map(draw.image, (own, *bounds.reshape(4, -1))))
        shown.append(replace(sample, images=images, attack=attack))
    return shown


def _attacked(run: Run, place: int) -> tuple[np.ndarray, Attack] | None:
    """Return the input that an attack made of a sample, by its place in the file, and how."""
    if run.attack is None or place < 0:
        return None
    name = str(run.classes[int(run.attack.prediction[place])])
    return run.attack.x[place], Attack(int(run.attack.changed[place]), name)


@dataclass(frozen=True)
class _Drawing:
    """Draws codes of features as images of a shape, brighter by a factor."""

    shape: Sequence[int]
    stretch: float = 1.0

    def image(self, flat: np.ndarray) -> np.ndarray:
        image = flat.reshape(self.shape).astype(np.float64) * self.stretch
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        return np.clip(np.rint(_reduced(image, np.mean)), 0, 255).astype(np.uint8)

    def marks(self, differs: np.ndarray) -> np.ndarray:
        """Return where any of a pixel's features differs, (h, w)."""
        marks = np.asarray(differs.reshape(*self.shape[:2], -1).any(axis=2))
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


def _feature_rows(
    model: BoxNN, x: np.ndarray, codes: np.ndarray, written: np.ndarray, bounds: np.ndarray
) -> tuple[FeatureRow, ...]:
    (lower, upper), width = bounds.swapaxes(0, 1), model.boxes.width
    value = codes.astype(int)
    beyond = np.maximum(lower.astype(int) - value, value - upper.astype(int))
    outside = np.clip(beyond, 0, width) / width
    changed = np.asarray(model.encode(written[None]))[0] != codes
    rank = np.abs(outside[1] - outside[0]) + np.where(changed, 2.0, 0.0)
    chosen = np.sort(np.argsort(-rank, kind="stable")[:MOST_FEATURES])
    columns = model_columns(model, [str(at) for at in range(len(codes))])
    return tuple(
        FeatureRow(
            columns[at].name,
            value_text(model, columns[at], x[at]),
            value_text(model, columns[at], written[at]) if changed[at] else "",
            admitted(model, columns[at], at, int(lower[0, at]), int(upper[0, at])),
            f"{outside[0, at]:.2f}",
            admitted(model, columns[at], at, int(lower[1, at]), int(upper[1, at])),
            f"{outside[1, at]:.2f}",
        )
        for at in chosen.tolist()
    )
