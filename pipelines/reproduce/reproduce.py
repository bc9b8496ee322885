"""`boxnn reproduce`: the paper's tables and figures again, with its values beside ours."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxnn_numba import validation
from boxnn_numba.backends.threads import default_threads
from boxnn_numba.baselines.torch_networks import PRECISIONS
from boxnn_numba.data.atomic import Content
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources.catalogue import open_source
from boxnn_numba.errors import DataError
from boxnn_numba.pipelines import run_folder
from boxnn_numba.pipelines.figures.published import published_medians
from boxnn_numba.pipelines.ingest import ingest
from boxnn_numba.pipelines.machine import describe_machine
from boxnn_numba.pipelines.reproduce import rows as remarks
from boxnn_numba.pipelines.reproduce import runs as reproduce_runs
from boxnn_numba.pipelines.reproduce.plots import picture
from boxnn_numba.pipelines.reproduce.rows import REMARKS, Row
from boxnn_numba.pipelines.reproduce.runs import SCALES, RunStore, Scale
from boxnn_numba.pipelines.reproduce.targets import (
    ABLATIONS,
    DATASETS,
    PANELS,
    TABLE_RADII,
    ablation_rows,
    comparison_rows,
    costs,
)
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

if TYPE_CHECKING:
    from distributed import Client

#: What can be asked for; ``"all"`` is everything but single figures of the ablation.
TARGETS = (*PANELS, *ABLATIONS, "ablation", "all")
_ALL = (*PANELS, "ablation")
_MARKER = {"format": "boxnn-reproduction", "version": 1}
_ENDINGS = ("csv", "json", "png", "txt")
_CONTENT: Content = {
    **{f"{target}.{ending}": None for target in TARGETS for ending in _ENDINGS},
    **dict.fromkeys(("cost.csv", "cost.json")),
    "data": {f"{name}.zarr": None for name in DATASETS},
}


@dataclass(frozen=True)
class Reproduction(Result):
    """The results of a rerun.

    Attributes
    ----------
    out
        Where the results are.
    targets
        Name -> its ``files``, ``text``, and ``differences`` from the published values.
    notes
        What a reader has to know about the runs as a whole.
    seconds
        That it took.
    """

    out: str
    targets: dict[str, dict[str, Any]]
    notes: list[str]
    seconds: float


def reproduce(
    target: str,
    out: str | Path,
    *,
    data: str | Path | None = None,
    fashion: str | Path | None = None,
    scale: str | Scale = "quick",
    seed: int = 0,
    precision: str = PRECISIONS[0],
    run: RunOptions = DEFAULT_RUN,
    client: Client | None = None,
) -> Reproduction:
    """Rerun what a table or figure of the paper shows and set it beside the published values.

    Parameters
    ----------
    target
        One of `TARGETS`.
    out
        Folder for ``TARGET.csv``, ``.json``, ``.png`` and ``.txt``, and for the runs behind
        them, which later targets share.
    data, fashion
        Datasets of MNIST and Fashion-MNIST; by default they are ingested from where
        ``boxnn data fetch`` puts them.
    scale
        ``"quick"``, ``"full"``, or a `Scale`.
    seed
        Of all runs.
    precision
        Of the networks of RA, as for `boxnn_numba.baselines.base_classifiers.train_masked`.
    run
        How to run. To resume is to add to an earlier reproduction at `out`, with its runs.
    client
        A `distributed.Client` whose workers do the work, in place of one in `run`.

    Returns
    -------
    Reproduction

    Raises
    ------
    OptionError
        Unknown target or scale, or `out` exists.
    DataError
        A data set is missing, or damaged.
    BoxNNError
        A run failed, or an output cannot be written.
    """
    began, run = time.perf_counter(), run.using(client)
    validation.choice("target", target, TARGETS)
    if isinstance(scale, str):
        scale = SCALES[validation.choice("scale", scale, SCALES)]
    seed = validation.integer("seed", seed, low=0)
    validation.choice("precision", precision, PRECISIONS)
    if run.threads is not None:
        validation.positive("threads", run.threads)
    names = _ALL if target == "all" else (target,)
    wanted = [name for name in DATASETS if any(name in _datasets_of(each) for each in names)]
    given = dict(zip(DATASETS, (data, fashion), strict=True))
    baselines = reproduce_runs.torch_installed() and any(name in PANELS for name in names)
    for name in wanted:
        _check(name, given[name], scale, baselines)
    with run_folder.open_run_folder(
        out, "reproduce", "reproduce.json", _MARKER, _CONTENT, run
    ) as folder:
        run = replace(run, overwrite=False, resume=True, log=None)
        paths = {name: _dataset(folder, name, given[name], run) for name in wanted}
        store = RunStore(folder / "runs", paths, scale, seed, run, precision)
        notes = _notes(store)
        done = {}
        for name in names:
            run.progress.note(f"target {name}")
            done[name] = _reproduce_one(name, folder, store, notes)
    return Reproduction(str(folder), done, notes, time.perf_counter() - began)


def _reproduce_one(
    target: str, folder: Path, store: RunStore, notes: Sequence[str]
) -> dict[str, Any]:
    began = time.perf_counter()
    result = _header(target, store)
    rows = comparison_rows(target, store) if target in PANELS else ablation_rows(target, store)
    medians: list[dict[str, Any]] = []
    if target == "table1":
        published = {name: published_medians(name) for name in _datasets_of(target)}
        medians = remarks.best_medians(rows, published)
    named = remarks.median_differences(medians) if medians else remarks.differences(rows)
    priced = costs(store) if target == "table2" else []
    result |= {
        "notes": [*notes, *remarks.never_improved(rows)],
        "seconds": round(time.perf_counter() - began, 1),
        "medians": medians,
        "differences": named,
        **{name: find(rows) for name, (_, find) in REMARKS.items()},
        "rows": [asdict(row) for row in rows],
    }
    text = _report_text(result, rows)
    names = [f"{target}.{ending}" for ending in _ENDINGS]
    if priced:
        text += "\n\n" + _cost_text(priced)
        header = {key: result[key] for key in ("format", "version", "command", "seed", "machine")}
        cost = {**header, "target": "cost", "rows": priced}
        run_folder.write_json(folder / "cost.json", cost)
        run_folder.write_csv(folder / "cost.csv", priced)
        names += ["cost.csv", "cost.json"]
    run_folder.write_csv(folder / f"{target}.csv", _table(target, rows, medians))
    run_folder.write_json(folder / f"{target}.json", result)
    figure = picture(target, rows, medians, result["title"])
    run_folder.write_figure(folder / f"{target}.png", figure)
    run_folder.write_text(folder / f"{target}.txt", text)
    return {"files": names, "text": text, "differences": named}


# --- before the runs ----------------------------------------------------------------------


def _datasets_of(target: str) -> list[str]:
    """Return the data sets of a target; the ablation is on MNIST."""
    panels = PANELS.get(target)
    return ["mnist"] if panels is None else list(dict.fromkeys(name for name, _ in panels))


def _check(name: str, given: str | Path | None, scale: Scale, baselines: bool) -> None:
    """Raise, before anything is written, if a data set is not here or too small for its runs."""
    if given is None:
        try:
            open_source(name)
        except DataError as error:
            option = "data" if name == "mnist" else "fashion"
            raise DataError(f"{error} (or pass `{option}`, a dataset)") from error
        return
    dataset = open_dataset(given)
    settings = (*scale.ra.get(name, ()), *scale.fpa.get(name, ())) if baselines else ()
    for has, least, what in (
        (dataset.n_features, max(settings, default=1), "features"),
        (dataset.n_rows("test"), (scale.images or 1) if baselines else 1, "test samples"),
    ):
        if has < least:
            raise DataError(
                f"{given} has {has} {what} and the runs of scale {scale.name} need {least}; pass "
                f"a data set like {name}"
            )


def _dataset(folder: Path, name: str, given: str | Path | None, run: RunOptions) -> Path:
    """Return where a data set is; one that was not given is ingested into the folder."""
    if given is not None:
        return Path(given)
    path = folder / "data" / f"{name}.zarr"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        ingest(name, path, run=RunOptions(progress=run.progress))
    return path


def _notes(store: RunStore) -> list[str]:
    notes = [
        f"ours was measured on {dataset.name!r} in place of {name}"
        for name, dataset in store.opened.items()
        if dataset.name != name
    ]
    return notes if reproduce_runs.torch_installed() else [*notes, reproduce_runs.NO_TORCH]


def _header(target: str, store: RunStore) -> dict[str, Any]:
    title = "Table 4 and Figures 4 to 9"
    for word in ("table", "figure"):
        if target.startswith(word):
            title = f"{word.capitalize()} {target.removeprefix(word)}"
    command = f"boxnn reproduce {target} --out DIR --scale {store.scale.name} --seed {store.seed}"
    if store.run.threads is not None:
        command += f" --threads {store.run.threads}"
    if store.precision != PRECISIONS[0]:
        command += f" --precision {store.precision}"
    return {
        **_MARKER,
        "target": target,
        "title": title,
        "command": command,
        "scale": asdict(store.scale),
        "seed": store.seed,
        "machine": describe_machine(store.run.threads or default_threads()),
        "datasets": {
            name: {"name": item.name, "digest": item.digest, "test_images": item.n_rows("test")}
            for name, item in store.opened.items()
            if name in _datasets_of(target)
        },
        "intervals": "Clopper-Pearson, two-sided, 95% at each radius",
    }


# --- text and CSV -------------------------------------------------------------------------


def _report_text(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the rows as a table, and what is to be said of them."""
    lines = [f"{result['title']}: {result['command']}"]
    lines += [f"note: {note}" for note in result["notes"]]
    name_width = max(len(row.method) for row in rows)
    lines.append("certified accuracy (%) at r = " + ", ".join(map(str, TABLE_RADII)))
    for row in rows:
        counted = f"{row.images} images" if row.ours else "published"
        counted += f", {row.samples} samples" if row.samples else ""
        values = " ".join(f"{row.at(radius):5.1f}" for radius in TABLE_RADII)
        median = "" if row.median is None else f" median {row.median}"
        lines.append(
            f"  {row.dataset:<13} {row.method:<{name_width}} {values} {median:<10} ({counted})"
        )
    unit = "2 pixels" if result["medians"] else "2 points"
    named = result["differences"] or ["none"]
    lines += ["", f"differences larger than {unit}, with 95% intervals:"]
    lines += [f"  {line}" for line in named]
    for name, (words, _) in REMARKS.items():
        if result[name]:
            lines += [words, *(f"  {line}" for line in result[name])]
    return "\n".join(lines)


def _table(
    target: str, rows: Sequence[Row], medians: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the lines of the CSV: Table 1, a table of the paper's radii, or curves."""
    if medians:
        return [
            {**item, "interval": "-".join(map(str, item["interval"] or []))} for item in medians
        ]
    about = ("dataset", "method", "source", "convention", "images", "samples")
    lines: list[dict[str, Any]] = []
    for row in rows:
        fixed = {name: getattr(row, name) for name in about}
        if target.startswith("table"):
            lines.append({**fixed, **{f"r{radius}": row.at(radius) for radius in TABLE_RADII}})
            continue
        for place, (radius, percent) in enumerate(zip(row.radii, row.percents, strict=True)):
            low, high = (row.low[place], row.high[place]) if row.low else (None, None)
            point = {"radius": radius, "certified_accuracy": percent, "low": low, "high": high}
            lines.append({"group": row.group, **fixed, **point})
    return lines


def _cost_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the costs as a table."""
    lines = ["cost to certify one image (seconds with reading and writing; multiply-adds):"]
    for item in rows:
        seconds = item["seconds_per_image"]
        words = "unknown" if seconds is None else f"{seconds:.3g}"
        lines.append(
            f"  {item['method']:<8} {words:>12} s {item['multiply_adds_per_image']:12.3g}   "
            f"({item['images']} images; {item['note']})"
        )
    return "\n".join(lines)
