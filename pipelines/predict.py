"""Prediction: labels and certified radii of the rows of a ``.npy`` file."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass

import numpy as np

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.model_store import load_model
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import DataError, InputError
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

#: Rows of a user's array that are predicted at a time.
_ROWS = 4096


@dataclass(frozen=True)
class Predicted(Result):
    """Where predictions are, and of how many rows."""

    predictions: str
    n: int


def predict(
    model: Name,
    samples: str | os.PathLike[str],
    out: Name,
    *,
    run: RunOptions = DEFAULT_RUN,
) -> Predicted:
    """Predict and certify the rows of a ``.npy`` file; write ``label,radius`` per row as CSV.

    Parameters
    ----------
    model
        Path of a model.
    samples
        A ``.npy`` file (N, n) or (N, *feature_shape), read piece by piece.
    out
        The CSV file to write.
    run
        How to run, in this process.

    Returns
    -------
    Predicted

    Raises
    ------
    BoxNNError
        Bad model or array, or an output that cannot be written.
    """
    get_backend(run.device, chunk=run.chunk)
    classifier = load_model(model)
    try:
        array = np.load(samples, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{samples} is not a readable .npy file of numbers; save it with np.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim < 2 or len(array) == 0:
        raise InputError(f"{samples} must hold samples as rows, (N, features) with N >= 1")
    run.progress.start(len(array), "samples")
    with (
        staged_output(
            out, overwrite=run.overwrite, directory=False, inputs=[model, samples]
        ) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(["label", "radius"])
        for start in range(0, len(array), _ROWS):
            part = array[start : start + _ROWS]
            labels, radii = classifier.certify(part, device=run.device, chunk=run.chunk)
            table.writerows(zip(labels.tolist(), radii.tolist(), strict=True))
            run.progress.advance(len(labels))
    return Predicted(str(out), len(array))
