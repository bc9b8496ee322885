"""Origins of certificates: their models and their data set, found where they are and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from boxnn_numba.data.paths import Location, Name, exists, is_url, location, storage_errors
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.figures.runs import Run

if TYPE_CHECKING:
    from boxnn_numba.data.attack_store import AttackFile
    from boxnn_numba.data.certificate_store import CertificateFile
    from boxnn_numba.data.dataset import Dataset
    from boxnn_numba.model import BoxNN


class Origins:
    """Opens what runs of one data set name, and refuses (`OptionError`) what has changed since.

    `data` and `models` say where it is now, if not where the certificates say.
    """

    def __init__(
        self,
        runs: Sequence[Run | CertificateFile | AttackFile],
        data: Name | None = None,
        models: Sequence[Name] = (),
    ) -> None:
        self._data = None if data is None else location(data)
        self._dataset: Dataset | None = None
        self._models: dict[str, BoxNN] = {}
        wanted = {run.attributes.get("model_digest") for run in runs}
        for path in models:
            digest, model = _load_model(path)
            if digest not in wanted:
                names = " or ".join(str(run.path) for run in runs)
                raise OptionError(
                    f"{path} is not the model that made {names}; pass that model with `models` "
                    "or certify again"
                )
            self._models[digest] = model
        if data is not None:
            self.dataset(runs[0])

    def model(self, run: Run) -> BoxNN | None:
        """Return the model that made a run, or None if it is not where the run says."""
        digest = str(run.attributes.get("model_digest"))
        if digest not in self._models and (path := _find(run, "model")) is not None:
            found, model = _load_model(path)
            if found != digest:
                raise OptionError(
                    f"{path} has changed since {run.path} was made; certify again, or pass the "
                    "model of that time with `models`"
                )
            self._models[digest] = model
        return self._models.get(digest)

    def dataset(self, run: Run | CertificateFile | AttackFile) -> Dataset | None:
        """Return the data set of a run, or None if it is not where the run says."""
        from boxnn_numba.data.dataset import open_dataset

        if self._dataset is None and (path := self._data or _find(run, "dataset")) is not None:
            dataset = open_dataset(path)
            if dataset.digest != run.attributes.get("dataset_digest"):
                raise OptionError(
                    f"{path} is not the data set that {run.path} is of; pass that one with "
                    "`data` or certify again"
                )
            self._dataset = dataset
        return self._dataset


def _find(run: Run | CertificateFile | AttackFile, key: str) -> Location | None:
    """Return the path that a certificate names, from here or from beside the certificate.

    A URL in a certificate is not opened, whatever its protocol: the file may be a stranger's, and
    only its reader decides what is asked for over a network. Its last part may lie beside the file.
    """
    named = run.attributes.get(key)
    if not isinstance(named, str) or not named:
        return None
    words = [] if is_url(named) else [named]
    places: list[Name] = [*words]
    if run.path is not None:
        places += [run.path.parent / word for word in (*words, Path(named).name)]
    found = (_reached(place) for place in places)
    return next((place for place in found if place is not None), None)


def _reached(place: Name) -> Location | None:
    """Return where a store is; None where it is not there or cannot be reached from here."""
    try:
        with storage_errors():
            found = location(place)
            return found if exists(found) else None
    except (OptionError, OSError):
        return None


def _load_model(path: Name) -> tuple[str, BoxNN]:
    from boxnn_numba.data.model_store import load_model, model_digest

    model = load_model(path)
    return model_digest(model), model
