"""The state of base classifiers in training: written after every epoch, read by --resume."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from boxnn_numba.data.model_store import load_checkpoint, save_checkpoint
from boxnn_numba.data.paths import Location, exists
from boxnn_numba.errors import OptionError


class FileCheckpoint:
    """A `boxnn_numba.baselines.torch_training.Checkpoint` in the folder of an unfinished run.

    Parameters
    ----------
    folder
        Of the run.
    about
        Options and data by which a run is recognised, as JSON values.

    Attributes
    ----------
    epochs
        How many epochs are kept.
    seconds
        What earlier runs spent on them.
    """

    def __init__(self, folder: Location, about: Mapping[str, Any]) -> None:
        self._folder, self._path = folder, folder / "checkpoint.npz"
        self._about = dict(about)
        self.epochs, self.seconds, self._began = 0, 0.0, time.perf_counter()

    def restore(self, about: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], Any] | None:
        """Return what an earlier run saved, if one did.

        Raises
        ------
        OptionError
            That run had other options or data, or is of something else.
        ModelFileError
            What it saved is damaged.
        """
        self._about |= about
        if not exists(self._path):
            return None
        arrays, values = load_checkpoint(self._path)
        before = values.get("about", {})
        for name, value in self._about.items():
            if before.get(name) != value:
                raise OptionError(
                    f"the unfinished run in {self._folder} has {name} {before.get(name)}, not "
                    f"{value}; resume it with its own options or pass --overwrite to start again"
                )
        self.epochs, self.seconds = values["state"]["ran"], values["seconds"]
        return arrays, values["state"]

    def save(self, epoch: int, arrays: Mapping[str, np.ndarray], values: Any) -> None:
        """Replace what was saved before in one step."""
        seconds = self.seconds + time.perf_counter() - self._began
        about = {"about": self._about, "state": values, "seconds": seconds}
        save_checkpoint(self._path, dict(arrays), about)
        self.epochs = epoch
