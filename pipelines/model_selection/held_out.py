"""Held-out rows: the certified accuracy of a model on rows that its training held out."""

from __future__ import annotations

import numpy as np

from boxnn_numba.data.dataset import Dataset
from boxnn_numba.errors import OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.selection import option_split

#: Rows that are certified at a time.
_ROWS = 8192


def held_out_rows(dataset: Dataset, options: TrainingOptions) -> np.ndarray:
    """Return the numbers of the training rows that are held out; raise if there are none."""
    labels = dataset.read_labels("train")
    _, rows = option_split(labels, options)
    if len(rows) == 0:
        capped = options.held_out(len(labels)) < options.validation
        name = "validation_rows" if capped else "validation"
        raise OptionError(
            f"nothing is held out to choose by; pass `{name}` above {getattr(options, name):g}"
        )
    return rows


def held_out_outcome(model: BoxNN, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return prediction, certified radius and label (N,) of the rows that training held out."""
    rows = held_out_rows(dataset, TrainingOptions(**model.training["options"]))
    found = []
    for start in range(0, len(rows), _ROWS):
        x, y = dataset.read_rows("train", rows[start : start + _ROWS])
        found.append((*model.radii(model.class_distance(x)), y))
    prediction, radius, label = (np.concatenate(part) for part in zip(*found, strict=True))
    return prediction, radius, label
