"""The frontier: models for many radii, and at each the one that does best on held-out data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_model
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import DataError, DivergenceError, OptionError
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions, check_options
from boxnn_numba.pipelines.figures.published import published_rows
from boxnn_numba.pipelines.figures.runs import certified_curve
from boxnn_numba.pipelines.model_selection.frontier_files import at, write_frontier
from boxnn_numba.pipelines.model_selection.held_out import held_out_outcome, held_out_rows
from boxnn_numba.pipelines.run_folder import RunFolder, kept_run
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.progress import SILENT, Progress
from boxnn_numba.training.options import TrainingOptions, resolve

TARGETS = tuple(range(4, 41, 4))
_KIND = RunFolder(
    "boxnn frontier", "frontier.marker.json", {"format": "boxnn-frontier", "version": 1}
)


@dataclass(frozen=True)
class HowToTrain:
    """Options of the runs that do not change their results; as for `train`."""

    device: str = "auto"
    threads: int | None = None
    cluster: ClusterOptions = IN_PROCESS
    progress: Progress = SILENT

    def as_dict(self) -> dict[str, Any]:
        """Return them as keywords of `train` and `certify`."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Member:
    """One model of the family.

    Attributes
    ----------
    name, folder
        ``"graded"`` or e.g. ``"target 12"``; where it is kept.
    held_out, test
        Certified accuracy in percent at radii 0, 1, ... on the held-out rows, and on the test
        split where the model was chosen for some radius (else None).
    seconds
        That its training took.
    """

    name: str
    folder: Path
    held_out: np.ndarray
    seconds: float
    test: np.ndarray | None = None


def frontier(
    data: Name,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    targets: Sequence[int] = TARGETS,
    overwrite: bool = False,
    resume: bool = False,
    how: HowToTrain | None = None,
) -> dict[str, Any]:
    """Train a family of models and choose among them at every radius by held-out data.

    The family is preset ``"graded"`` and preset ``"target"`` at each target. The test split is
    read once, when all is trained and chosen, and by the chosen models only.

    Parameters
    ----------
    data
        Path of a dataset.
    out
        Folder to make: ``runs/`` with the models, ``frontier.csv``, ``frontier.json`` and
        ``frontier.png``.
    options
        Values of `TrainingOptions` for all runs, e.g. ``boxes``; radius and preset apart.
    targets
        Radii to aim at, each at least 1.
    overwrite, resume
        Replace what an earlier call made at `out`; add to it, with the runs that it has.
    how
        Where to run.

    Returns
    -------
    dict
        ``out``, ``dataset``, ``split`` sizes, ``rows`` (one for each radius: ``radius``, ``model``,
        ``held_out`` and ``test`` certified accuracy in percent, ``published`` best and its
        ``method``), ``members`` and ``seconds``.

    Raises
    ------
    OptionError
        A target or an option is out of range, nothing is held out, or `out` exists.
    BoxNNError
        Bad data, a run that diverged, or an output that cannot be written.
    """
    began, how = time.perf_counter(), how or HowToTrain()
    check_options(how.cluster)
    get_backend(how.device if how.cluster.local else "cpu", how.threads)
    dataset = open_dataset(data)
    targets = [validation.integer("target", target, 1) for target in targets]
    family = _family(options or {}, targets, dataset.are_images)
    for split in ("train", "test"):
        if dataset.n_rows(split) == 0:
            raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
    shared = family[-1][1][1]
    held_out_rows(dataset, shared)
    folder = _KIND.open(out, overwrite, resume)
    members = [_train(name, settings, data, dataset, folder, how) for name, settings in family]
    chosen = choose([member.held_out for member in members])
    radii = sorted({0, *targets})
    used = {int(chosen[r]) for r in range(radii[-1] + 1) if r < len(chosen)}
    for place in sorted(used):
        members[place] = _test(members[place], data, how)
    result = {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "training_rows": dataset.n_rows("train"),
        "test_rows": dataset.n_rows("test"),
        "rows": _rows(members, chosen, radii, dataset.name),
        "members": [
            {
                "name": member.name,
                "folder": str(member.folder.relative_to(folder)),
                "held_out": member.held_out.round(4).tolist(),
                "test": None if member.test is None else member.test.round(4).tolist(),
                "seconds": member.seconds,
            }
            for member in members
        ],
        "options": {
            name: value
            for name, value in shared.as_dict().items()
            if (options or {}).get(name) is not None
        },
    }
    write_frontier(folder, result, members, chosen)
    return {"out": str(folder), **result, "seconds": time.perf_counter() - began}


def choose(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Return which curve is highest at each radius 0, 1, ..., the first of equals.

    Parameters
    ----------
    curves
        Certified accuracy at radii 0, 1, ...; one that ends is 0 from there on.

    Returns
    -------
    ndarray
        (R,) int64, as long as the longest curve.

    Examples
    --------
    >>> from boxnn_numba.pipelines.model_selection.frontier import choose
    >>> choose([[90.0, 50.0], [80.0, 60.0, 10.0]])
    array([0, 1, 1])
    """
    length = max(map(len, curves))
    return np.array([np.pad(curve, (0, length - len(curve))) for curve in curves]).argmax(axis=0)


def _family(
    options: Mapping[str, Any], targets: Sequence[int], images: bool
) -> list[tuple[str, tuple[str, TrainingOptions]]]:
    if not targets:
        raise OptionError("there are no targets; pass radii to aim at, e.g. --targets 4,8,12")
    given = {name: value for name, value in options.items() if value is not None}
    if "radius" in given:
        raise OptionError("the radii of a frontier are its targets; pass --targets, not --radius")
    # A warm-up comes before objective target only.
    graded = {name: value for name, value in given.items() if name != "warmup"}
    family = [("graded", ("graded", resolve("graded", graded, images)))]
    for target in dict.fromkeys(targets):
        settings = resolve("target", {**given, "radius": target}, images)
        family.append((f"target {target}", ("target", settings)))
    return family


def _train(
    name: str,
    settings: tuple[str, TrainingOptions],
    data: Name,
    dataset: Dataset,
    folder: Path,
    how: HowToTrain,
) -> Member:
    preset, options = settings

    def work(own: Path) -> None:
        if (own / "model.zarr").exists():
            return
        try:
            run = RunOptions(resume=True, **how.as_dict())
            train(data, own / "model.zarr", options, preset=preset, run=run)
        except DivergenceError as error:
            what = str(error).split(";")[0]
            raise DivergenceError(
                f"{name}: {what}; lower --lr (now {options.lr:g}) and pass --resume"
            ) from error

    key = {"preset": preset, **options.as_dict(), "dataset_digest": dataset.digest}
    own, _ = kept_run(folder / "runs", name.replace(" ", "-"), key, work, how.progress)
    model = load_model(own / "model.zarr")
    seconds = sum(record["seconds"] for record in model.training["history"])
    return Member(name, own, certified_curve(held_out_outcome(model, dataset)), seconds)


def _test(member: Member, data: Name, how: HowToTrain) -> Member:
    path = member.folder / "cert.zarr"
    if not path.exists():
        certify(member.folder / "model.zarr", data, path, resume=True, **how.as_dict())
    outcome = open_certificate(path).outcome()
    return replace(member, test=certified_curve(outcome))


def _rows(
    members: Sequence[Member], chosen: np.ndarray, radii: Sequence[int], dataset_name: str
) -> list[dict[str, Any]]:
    published = published_rows(dataset_name)
    rows = []
    for radius in radii:
        best = max(
            ((row.percents[row.radii.index(radius)], row.method) for row in published
             if radius in row.radii), default=(None, None),
        )  # fmt: skip
        member = members[int(chosen[radius])] if radius < len(chosen) else None
        rows.append(
            {
                "radius": radius,
                "model": None if member is None else member.name,
                "held_out": 0.0 if member is None else round(at(member.held_out, radius), 4),
                "test": 0.0 if member is None else round(at(member.test, radius), 4),
                "published": best[0],
                "method": best[1],
            }
        )
    return rows
