"""The chunks of a certification by boxes, as tasks for any executor."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.certificates.exact import exact_radii
from boxnn_numba.certificates.pairwise import pairwise_radius
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_model, model_digest
from boxnn_numba.data.row_files import spread_rows
from boxnn_numba.errors import DataError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.certification.chunked import Spent, class_positions, write_certificates


@dataclass(frozen=True)
class CertifyJob:
    """What a task needs to certify a chunk: paths, the digests they must have, and options."""

    model: str
    model_digest: str
    data: str
    data_digest: str
    split: str
    out: str
    chunk_rows: int
    n_rows: int
    certificate: str
    time_limit: float
    device: str
    chunk: int | None


# A worker reads the model and the attributes of the data once, not with every task; the digests
# in the key make sure that it is still what the client saw.
@functools.lru_cache(maxsize=2)
def _open_inputs(
    model: str, model_digest_: str, data: str, data_digest: str
) -> tuple[BoxNN, Dataset]:
    classifier, dataset = load_model(model), open_dataset(data)
    if model_digest(classifier) != model_digest_ or dataset.digest != data_digest:
        raise DataError(f"{model} or {data} changed while it was certified; start again")
    return classifier, dataset


def certify_chunk(index: int, job: CertifyJob) -> Spent:
    """Certify one chunk, write it whole to the result, and return what that took.

    Runs on whatever the executor uses. Running it twice writes the same bytes, but for exact radii
    that the time limit cuts short.

    Raises
    ------
    BoxNNError
        Names the chunk: its data are damaged, or its result cannot be written.
    """
    began = time.perf_counter()
    classifier, dataset = _open_inputs(job.model, job.model_digest, job.data, job.data_digest)
    places = np.arange(index * job.chunk_rows, min((index + 1) * job.chunk_rows, job.n_rows))
    rows = spread_rows(places, job.n_rows, dataset.n_rows(job.split))
    x, y = dataset.read_rows(job.split, rows)
    read = time.perf_counter()
    distance = classifier.class_distance(x, job.device, job.chunk)
    prediction, radius = classifier.radii(distance)
    extra: dict[str, Any] = {}
    if job.certificate == "pairwise":
        radius = pairwise_radius(classifier, x).radius
    elif job.certificate == "exact":
        radius, extra["upper"] = exact_radii(classifier, x, job.time_limit)
    label = class_positions(classifier.classes, dataset)[y]
    nbytes = x.nbytes + y.nbytes
    return write_certificates(
        job, index, began, read, nbytes, prediction, radius, label, distance, **extra
    )
