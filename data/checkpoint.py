"""Checkpoints: the state of a training run, kept in the folder of its unfinished output.

A checkpoint is one ``.npz`` of plain arrays and JSON values, without pickles, that is replaced
in one step.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba.data import zarr_format
from boxnn_numba.data.paths import Location, exists, put, read_problem
from boxnn_numba.errors import ModelFileError, OptionError

Arrays = dict[str, np.ndarray]


class Checkpoint:
    """The state of a run, of Box-NN or of base classifiers; read again by a run that resumes it.

    `about` are options and data, as JSON values, by which a run is recognised; what was saved is
    old after `age` seconds. `part` tells the runs apart that make one result. `state` are the JSON
    values that are kept; empty where nothing is.
    """

    def __init__(
        self, folder: Location, about: Mapping[str, Any], age: float = math.inf, part: int = 0
    ) -> None:
        self._folder = folder
        self._path = folder / f"checkpoint{f'-{part}' if part else ''}.npz"
        self._about, self._age = dict(about), age
        self.state: dict[str, Any] = {}
        self._before, self._began = 0.0, time.perf_counter()
        self._saved = self._began

    @property
    def seconds(self) -> float:
        """What was spent on the run up to now, by earlier runs too."""
        return self._before + time.perf_counter() - self._began

    @property
    def is_old(self) -> bool:
        """Whether it is time to save again."""
        return time.perf_counter() - self._saved >= self._age

    def restore(self, about: Mapping[str, Any] | None = None) -> tuple[Arrays, Any] | None:
        """Return the arrays and values that an earlier run saved, if one did.

        `about` is more by which the run is recognised; one of something else is an error.
        """
        self._about |= about or {}
        if not exists(self._path):
            return None
        arrays, values = load_checkpoint(self._path)
        before = values.get("about", {})
        for name, value in self._about.items():
            if before.get(name) != value:
                raise OptionError(
                    f"the unfinished run in {self._folder} has {name} {before.get(name)}, not "
                    f"{value}; resume it with its own options or pass `overwrite` to start again"
                )
        self.state, self._before = values["state"], values["seconds"]
        return arrays, self.state

    def save(self, arrays: Mapping[str, np.ndarray], state: dict[str, Any]) -> None:
        """Replace what was saved before in one step."""
        values = {"about": self._about, "state": state, "seconds": self.seconds}
        save_checkpoint(self._path, arrays, values)
        self.state, self._saved = state, time.perf_counter()


def save_checkpoint(
    path: Location, arrays: Mapping[str, np.ndarray], values: dict[str, Any]
) -> None:
    """Replace the file at `path` in one step; as `Checkpoint.save`."""
    content = {"values": np.array(json.dumps(values)), **arrays}
    if not isinstance(path, Path):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **content)
        put(path, buffer.getvalue())
        return
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        np.savez(file, allow_pickle=False, **content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load_checkpoint(path: Location) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and values of a file."""
    try:
        # np.load would leave a file that it opened itself open where the zip is damaged.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(str(arrays.pop("values")))
    except zarr_format.READ_FAILURES as error:
        damaged = f"checkpoint {path} is damaged; pass `overwrite` to start again"
        raise ModelFileError(read_problem(path, str(path), error, damaged)) from error
