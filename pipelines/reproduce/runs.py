"""The runs behind `boxnn reproduce`: what each one is, and a folder that keeps them.

A run is one trained model with its certificates, in a folder of its own under ``runs/`` that is
named by a digest of everything that determines it. Targets share runs, and a reproduction that
was killed finds the finished ones again and continues the unfinished one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.run_folder import kept_run
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.progress import SILENT
from boxnn_numba.training.options import resolve

#: Why baselines are not rerun where torch is missing.
NO_TORCH = (
    "torch is not installed, so RA and FPA are not rerun: pip install 'boxnn-numba[baselines]'"
)
_MODEL = "model.zarr"
#: Settings of FPA whose published rows count the pixels down the columns (`make_partition`).
_BY_COLUMNS = {("mnist", 25), ("mnist", 45)}


@dataclass(frozen=True)
class Scale:
    """How much is rerun, and how thoroughly.

    Attributes
    ----------
    name
        ``"quick"`` or ``"full"``.
    boxes, epochs
        Of every Box-NN, and of preset ``"paper"``, unless the ablation varies it.
    ablation_epochs, ablation_boxes
        Epochs of the ablation's runs, and numbers of boxes that Fig. 6 compares beside `boxes`.
    ra, fpa
        Data set -> retained features k, and numbers T of submodels.
    images
        Test images of RA, spread over the test split; None for all. Other methods certify all.
    samples, guess_samples
        Random ablations of an image for the bound and for the guess.
    """

    name: str
    boxes: int
    epochs: int
    ablation_epochs: int
    ablation_boxes: tuple[int, ...]
    ra: Mapping[str, tuple[int, ...]]
    fpa: Mapping[str, tuple[int, ...]]
    images: int | None
    samples: int
    guess_samples: int


SCALES = {
    "quick": Scale(
        name="quick",
        boxes=2500,
        epochs=8,
        ablation_epochs=3,
        ablation_boxes=(500, 1000, 5000),
        ra={"mnist": (20, 45, 60), "fashion-mnist": (40,)},
        fpa={"mnist": (25, 60)},
        images=500,
        samples=10_000,
        guess_samples=1_000,
    ),
    "full": Scale(
        name="full",
        boxes=2500,
        epochs=8,
        ablation_epochs=8,
        ablation_boxes=(500, 1000, 5000, 10_000),
        ra={"mnist": (10, 20, 40, 45, 60), "fashion-mnist": (10, 20, 40, 60)},
        fpa={"mnist": (10, 25, 35, 60, 65, 75)},
        images=None,
        samples=10_000,
        guess_samples=1_000,
    ),
}


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done.

    Attributes
    ----------
    folder
        Holds ``model.zarr`` and the certificates ``cert.zarr``, or ``cert-a.zarr`` and
        ``cert-b.zarr``.
    options
        Everything that determines it.
    """

    folder: Path
    options: dict[str, Any]

    def certificate(self, variant: str = "") -> CertificateFile:
        """Return the certificate; of a baseline the variant ``"a"`` or ``"b"``."""
        return open_certificate(self.folder / f"cert{variant and '-' + variant}.zarr")


class RunStore:
    """Runs on demand: done once, then found again.

    Parameters
    ----------
    folder
        Where the runs go.
    datasets
        Data set -> its path.
    scale, seed, threads
        Of all runs.
    progress
        Object with ``start(total, unit)``, ``advance(n)`` and ``note(text)``, or None.

    Attributes
    ----------
    opened
        Data set -> the `Dataset`.
    baselines
        Whether RA and FPA are rerun.
    """

    def __init__(
        self,
        folder: Path,
        datasets: Mapping[str, Path],
        scale: Scale,
        seed: int,
        threads: int | None,
        progress: Any = None,
    ) -> None:
        self.folder, self.datasets, self.scale = folder, datasets, scale
        self.seed, self.threads, self.progress = seed, threads, progress
        self.baselines = torch_installed()
        self.opened = {name: open_dataset(path) for name, path in datasets.items()}

    def boxnn(self, dataset: str, preset: str, **options: Any) -> FinishedRun:
        """Train and certify a Box-NN with a preset and some options of its own."""
        common = {"boxes": self.scale.boxes, "seed": self.seed}
        if preset == "paper":  # which gives no number of epochs; our presets have their own
            common["epochs"] = self.scale.epochs
        settings = resolve(preset, {**common, **options}, self.opened[dataset].are_images)
        data = self.datasets[dataset]

        def work(folder: Path) -> None:
            model, cert = folder / _MODEL, folder / "cert.zarr"
            common = {"resume": True, "threads": self.threads, "progress": self.progress}
            if not model.exists():
                train(data, model, settings, preset=preset, run=self._how())
            if not cert.exists():
                certify(model, data, cert, **common)

        words = "-".join(f"{name}-{value}" for name, value in options.items())
        name = f"{dataset}-{preset}" + (f"-{words}" if words else "")
        return self._run(name, {"dataset": dataset, "preset": preset, **settings.as_dict()}, work)

    def baseline(self, dataset: str, method: str, setting: int) -> FinishedRun:
        """Train ``"ra"`` with k = `setting` or ``"fpa"`` with T = `setting`; certify a and b.

        Both certificates of RA rest on the same votes.
        """
        training = import_module("boxnn_numba.pipelines.training.baselines")
        certification = import_module("boxnn_numba.pipelines.certification.baselines")
        data = self.datasets[dataset]
        size: dict[str, Any] = {"retained" if method == "ra" else "parts": setting}
        options = self.sampling() if method == "ra" else {}
        if method == "fpa":
            columns = (dataset, setting) in _BY_COLUMNS
            size["partition"] = "strided-columns" if columns else "strided"
        common = {
            "seed": self.seed,
            "resume": True,
            "threads": self.threads,
            "progress": self.progress,
        }

        def work(folder: Path) -> None:
            model, first, second = (
                folder / name for name in (_MODEL, "cert-a.zarr", "cert-b.zarr")
            )
            votes = {"votes_from": first} if method == "ra" else {}
            if not model.exists():
                training.train_baseline(
                    data, model, method=method, **size, seed=self.seed, run=self._how()
                )
            for letter, cert, more in (("a", first, {}), ("b", second, votes)):
                if not cert.exists():
                    certification.certify_baseline(
                        model, data, cert, certificate=letter, **options, **common, **more
                    )

        key = {"dataset": dataset, "method": method, **size, **options, "seed": self.seed}
        return self._run(f"{dataset}-{method}-{setting}", key, work)

    def sampling(self) -> dict[str, Any]:
        """Return what RA certificates of this scale rest on."""
        scale = self.scale
        return {
            "limit": scale.images,
            "samples": scale.samples,
            "guess_samples": scale.guess_samples,
        }

    def _how(self) -> RunOptions:
        progress = SILENT if self.progress is None else self.progress
        return RunOptions(resume=True, threads=self.threads, progress=progress)

    def _run(self, name: str, key: dict[str, Any], work: Callable[[Path], None]) -> FinishedRun:
        key = {**key, "dataset_digest": self.opened[key["dataset"]].digest}
        return FinishedRun(*kept_run(self.folder, name, key, work, self.progress))


def torch_installed() -> bool:
    """Return whether RA and FPA can be rerun here."""
    return importlib.util.find_spec("torch") is not None
