"""The chunks of a certification by boxes, as tasks for any executor."""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
import time
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates.exact import exact_radius, pairwise_radius
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_model, model_digest
from boxnn_numba.data.row_files import spread_rows
from boxnn_numba.errors import DataError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.certification.chunked import Spent, class_positions, write_certificates

#: Name of threads that wait for the solver of integer programs.
SOLVER = "boxnn solver"


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
        radius, extra["upper"] = _exact(classifier, x, job.time_limit)
    label = class_positions(classifier.classes, dataset)[y]
    nbytes = x.nbytes + y.nbytes
    return write_certificates(
        job, index, began, read, nbytes, prediction, radius, label, distance, **extra
    )


def _exact(model: BoxNN, x: np.ndarray, time_limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the true radii (N,) int32 of some samples, a sample to a thread.

    Nothing stops the solver before its time is up. So it is not the threads of the backend that
    wait for it but some of its own, which the command leaves behind where it is interrupted.
    """
    bounds = np.empty((2, len(x)), np.int32)
    todo, settled = deque(range(len(x))), SimpleQueue[BaseException | None]()

    def work() -> None:
        with contextlib.suppress(IndexError):  # Nothing is left to do.
            while True:
                settled.put(_settle(todo.popleft()))

    def _settle(i: int) -> BaseException | None:
        try:
            _, *bounds[:, i], _ = exact_radius(model, x[i], time_limit)
        except BaseException as error:  # To be raised in the thread that waits.
            return error
        return None

    try:
        for _ in range(min(len(x), get_backend("cpu").threads)):
            threading.Thread(target=work, name=SOLVER, daemon=True).start()
        for _ in range(len(x)):
            error = settled.get()
            if error is not None:
                raise error
    finally:
        todo.clear()
    lower, upper = bounds
    return lower, upper


def solvers() -> list[threading.Thread]:
    """Return the threads that wait for the solver of integer programs."""
    return [thread for thread in threading.enumerate() if thread.name == SOLVER]


@atexit.register
def _join_solvers() -> None:
    # C++ aborts the process if its threads still run when it is taken down.
    for thread in solvers():
        thread.join()
