"""Runs behind `boxnn reproduce`, which its targets share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from boxnn_numba.baselines.torch_networks import PRECISIONS
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.pipelines.certification.baselines import certify_baseline
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.run_folder import KeptRun, kept_run
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.baselines import train_baseline
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import resolve

#: Why baselines are not rerun where torch is missing.
NO_TORCH = (
    "torch is not installed, so RA and FPA are not rerun: pip install 'boxnn-numba[baselines]'"
)
#: Settings of FPA whose published rows count the pixels down the columns (`make_partition`).
_BY_COLUMNS = {("mnist", 25), ("mnist", 45)}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is rerun, and how thoroughly.

    Attributes
    ----------
    name
        ``"quick"`` or ``"full"``.
    boxes, epochs
        Of preset ``"paper"``, unless the ablation varies it.
    preset_boxes
        Of the other presets; None for what they set.
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
    boxes: int = 2500
    epochs: int = 8
    ablation_epochs: int
    ablation_boxes: tuple[int, ...]
    ra: Mapping[str, tuple[int, ...]]
    fpa: Mapping[str, tuple[int, ...]]
    images: int | None
    samples: int = 10_000
    guess_samples: int = 1_000
    preset_boxes: int | None = None


SCALES = {
    "quick": Scale(
        name="quick",
        ablation_epochs=3,
        ablation_boxes=(500, 1000, 5000),
        ra={"mnist": (20, 45, 60), "fashion-mnist": (40,)},
        fpa={"mnist": (25, 60)},
        images=500,
    ),
    "full": Scale(
        name="full",
        ablation_epochs=8,
        ablation_boxes=(500, 1000, 5000, 10_000),
        ra={"mnist": (10, 20, 40, 45, 60), "fashion-mnist": (10, 20, 40, 60)},
        fpa={"mnist": (10, 25, 35, 60, 65, 75)},
        images=None,
    ),
}


@dataclass(frozen=True)
class RunStore:
    """Runs on demand, in a folder: done once, then found again; `datasets` has their paths.

    `precision` is that of RA's networks.
    """

    folder: Path
    datasets: Mapping[str, Path]
    scale: Scale
    seed: int
    run: RunOptions
    precision: str = PRECISIONS[0]

    @cached_property
    def opened(self) -> dict[str, Dataset]:
        """Data set -> the `Dataset`."""
        return {name: open_dataset(path) for name, path in self.datasets.items()}

    def settings(self, dataset: str, method: str) -> tuple[int, ...]:
        """Return the settings of ``"ra"`` or ``"fpa"`` that are rerun; none without torch."""
        table = {"ra": self.scale.ra, "fpa": self.scale.fpa}[method]
        return table.get(dataset, ()) if torch_installed() else ()

    def boxnn(self, dataset: str, preset: str, **options: Any) -> KeptRun:
        """Train and certify a Box-NN with a preset and some options of its own."""
        common = {"seed": self.seed}
        if preset == "paper":  # which gives no number of epochs; our presets have their own
            common |= {"boxes": self.scale.boxes, "epochs": self.scale.epochs}
        elif self.scale.preset_boxes is not None:
            common["boxes"] = self.scale.preset_boxes
        settings = resolve(preset, {**common, **options}, self.opened[dataset].kind)
        data = self.datasets[dataset]

        def work(kept: KeptRun) -> None:
            if not kept.model.exists():
                train(data, kept.model, settings, preset=preset, run=self.run)
            if not kept.certificate_path().exists():
                # As the paper, whose convention is the margin's.
                certify(
                    kept.model, data, kept.certificate_path(), certificate="margin", run=self.run
                )

        name = "-".join([dataset, preset, *(f"{name}-{value}" for name, value in options.items())])
        return self._kept(name, {"dataset": dataset, "preset": preset, **settings.as_dict()}, work)

    def baseline(self, dataset: str, method: str, setting: int) -> KeptRun:
        """Train ``"ra"`` with k = `setting` or ``"fpa"`` with T = `setting`; certify a and b.

        Both certificates of RA rest on the same votes. The networks run on the CPU.
        """
        data, seed, scale = self.datasets[dataset], self.seed, self.scale
        how = replace(self.run, device="cpu")
        partition = "strided-columns" if (dataset, setting) in _BY_COLUMNS else "strided"
        size: dict[str, Any] = {"parts": setting, "partition": partition}
        sampling: dict[str, Any] = {}
        if method == "ra":
            size = {"retained": setting, "network": "published", "precision": self.precision}
            sampling = {"limit": scale.images, "samples": scale.samples}
            sampling["guess_samples"] = scale.guess_samples

        def work(kept: KeptRun) -> None:
            if not kept.model.exists():
                train_baseline(data, kept.model, method=method, **size, seed=seed, run=how)
            for letter in "ab":
                out = kept.certificate_path(letter)
                votes = kept.certificate_path("a") if method == "ra" and letter == "b" else None
                if not out.exists():
                    certify_baseline(
                        kept.model, data, out,
                        certificate=letter, **sampling, seed=seed, votes_from=votes,
                        run=how,
                    )  # fmt: skip

        key = {"dataset": dataset, "method": method, **size, **sampling, "seed": seed}
        return self._kept(f"{dataset}-{method}-{setting}", key, work)

    def _kept(self, name: str, key: dict[str, Any], work: Callable[[KeptRun], None]) -> KeptRun:
        key["dataset_digest"] = self.opened[key["dataset"]].digest
        return kept_run(self.folder, name, key, work, self.run.progress)


def torch_installed() -> bool:
    """Return whether RA and FPA can be rerun here."""
    return importlib.util.find_spec("torch") is not None
