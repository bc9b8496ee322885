"""`boxnn reproduce`: the paper's tables and figures again, with its values beside ours."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boxnn_numba import validation
from boxnn_numba.backends.threads import default_threads
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources.catalogue import open_source
from boxnn_numba.errors import DataError
from boxnn_numba.pipelines.figures.published import published_medians
from boxnn_numba.pipelines.ingest import ingest
from boxnn_numba.pipelines.machine import describe_machine
from boxnn_numba.pipelines.reproduce import runs as reproduce_runs
from boxnn_numba.pipelines.reproduce.cost import cost_text, costs
from boxnn_numba.pipelines.reproduce.files import (
    draw,
    report_text,
    write_csv,
    write_json,
    write_table,
    write_text,
)
from boxnn_numba.pipelines.reproduce.rows import (
    best_medians,
    beyond_reach,
    differences,
    guesses,
    median_differences,
    never_improved,
    without_counterpart,
)
from boxnn_numba.pipelines.reproduce.runs import (
    NO_TORCH,
    SCALES,
    RunStore,
    Scale,
)
from boxnn_numba.pipelines.reproduce.targets import (
    ABLATIONS,
    DATASETS,
    PANELS,
    ablation_rows,
    comparison_rows,
)
from boxnn_numba.pipelines.run_folder import RunFolder

FORMAT, VERSION = "boxnn-reproduction", 1
#: What can be asked for; ``"all"`` is everything but single figures of the ablation.
TARGETS = (*PANELS, *ABLATIONS, "ablation", "all")
_ALL = (*PANELS, "ablation")
_MARKER = "reproduce.json"


def reproduce(
    target: str,
    out: str | Path,
    *,
    data: str | Path | None = None,
    fashion: str | Path | None = None,
    scale: str | Scale = "quick",
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
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
    threads
        As for `get_backend`.
    overwrite, resume
        Delete an earlier reproduction at `out`; or add to it, with its finished runs.
    progress
        Object with ``start(total, unit)``, ``advance(n)`` and ``note(text)``, or None.

    Returns
    -------
    dict
        ``out``, ``targets`` (name -> ``files``, ``text``, ``differences``), ``notes`` and
        ``seconds``.

    Raises
    ------
    OptionError
        Unknown target or scale, or `out` exists.
    DataError
        A data set is missing, or damaged.
    BoxNNError
        A run failed, or an output cannot be written.
    """
    began = time.perf_counter()
    validation.choice("target", target, TARGETS)
    if isinstance(scale, str):
        scale = SCALES[validation.choice("scale", scale, SCALES)]
    seed = validation.integer("seed", seed, low=0)
    if threads is not None:
        validation.positive("threads", threads)
    names = _ALL if target == "all" else (target,)
    wanted = [name for name in DATASETS if any(name in _datasets_of(each) for each in names)]
    given = dict(zip(DATASETS, (data, fashion), strict=True))
    _check_sources(given, wanted)
    if reproduce_runs.torch_installed() and any(name in PANELS for name in names):
        for name in wanted:
            _check_size(name, given[name], scale)
    kind = RunFolder("boxnn reproduce", _MARKER, {"format": FORMAT, "version": VERSION})
    folder = kind.open(out, overwrite, resume)
    paths = {name: _dataset(folder, name, given[name], progress) for name in wanted}
    store = RunStore(folder / "runs", paths, scale, seed, threads, progress)
    notes = _notes(store)
    done = {}
    for name in names:
        if progress is not None:
            progress.note(f"target {name}")
        done[name] = _reproduce_one(name, folder, store, notes)
    return {
        "out": str(folder),
        "targets": done,
        "notes": notes,
        "seconds": time.perf_counter() - began,
    }


def _reproduce_one(
    target: str, folder: Path, store: RunStore, notes: Sequence[str]
) -> dict[str, Any]:
    began = time.perf_counter()
    result = _header(target, store)
    medians: list[dict[str, Any]] = []
    if target in PANELS:
        rows = comparison_rows(target, store)
        if target == "table1":
            published = {name: published_medians(name) for name in _datasets_of(target)}
            medians = best_medians(rows, published)
    else:
        rows = ablation_rows(target, store)
    named = median_differences(medians) if medians else differences(rows)
    priced = costs(store) if target == "table2" else []
    result |= {
        "notes": [*notes, *never_improved(rows)],
        "seconds": round(time.perf_counter() - began, 1),
        "medians": medians,
        "differences": named,
        "nearest": without_counterpart(rows),
        "beyond_reach": beyond_reach(rows),
        "guesses": guesses(rows),
        "rows": [row.as_dict() for row in rows],
    }
    text = report_text(result, rows)
    names = [f"{target}.{ending}" for ending in ("csv", "json", "png", "txt")]
    if priced:
        text += "\n\n" + cost_text(priced)
        header = {key: result[key] for key in ("format", "version", "command", "seed", "machine")}
        write_json(folder / "cost.json", {**header, "target": "cost", "rows": priced})
        write_csv(folder / "cost.csv", list(priced[0]), (item.values() for item in priced))
        names += ["cost.csv", "cost.json"]
    write_table(folder / f"{target}.csv", target, rows, medians)
    write_json(folder / f"{target}.json", result)
    draw(folder / f"{target}.png", target, rows, medians, result["title"])
    write_text(folder / f"{target}.txt", text + "\n")
    return {"files": names, "text": text, "differences": named}


# --- before the runs ----------------------------------------------------------------------


def _datasets_of(target: str) -> list[str]:
    """Return the data sets of a target; the ablation is on MNIST."""
    panels = PANELS.get(target)
    return ["mnist"] if panels is None else list(dict.fromkeys(name for name, _ in panels))


def _check_sources(given: Mapping[str, str | Path | None], wanted: Sequence[str]) -> None:
    """Raise before anything is written if a data set is not here."""
    for name in wanted:
        path = given[name]
        if path is not None:
            open_dataset(path)
            continue
        try:
            open_source(name)
        except DataError as error:
            option = "--data" if name == "mnist" else "--fashion"
            raise DataError(f"{error} (or pass {option} DATASET)") from error


def _check_size(name: str, given: str | Path | None, scale: Scale) -> None:
    """Raise if a data set in the place of `name` is too small for its runs of RA and FPA."""
    if given is None:
        return
    dataset = open_dataset(given)
    settings = (*scale.ra.get(name, ()), *scale.fpa.get(name, ()))
    for has, least, what in (
        (dataset.n_features, max(settings, default=1), "features"),
        (dataset.n_rows("test"), scale.images or 1, "test samples"),
    ):
        if has < least:
            raise DataError(
                f"{given} has {has} {what} and the runs of scale {scale.name} need {least}; pass "
                f"a data set like {name}"
            )


def _dataset(folder: Path, name: str, given: str | Path | None, progress: Any) -> Path:
    """Return where a data set is; one that was not given is ingested into the folder."""
    if given is not None:
        return Path(given)
    path = folder / "data" / f"{name}.zarr"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        ingest(name, path, progress=progress)
    return path


def _notes(store: RunStore) -> list[str]:
    """Return what a reader has to know about the runs as a whole."""
    notes = []
    for name, dataset in store.opened.items():
        if dataset.name != name:
            notes.append(f"ours was measured on {dataset.name!r} in place of {name}")
    if not store.baselines:
        notes.append(NO_TORCH)
    return notes


def _header(target: str, store: RunStore) -> dict[str, Any]:
    title = f"{target[:-1].capitalize()} {target[-1]}"
    for word in ("table", "figure"):
        if target.startswith(word):
            title = f"{word.capitalize()} {target.removeprefix(word)}"
    if target == "ablation":
        title = "Table 4 and Figures 4 to 9"
    command = f"boxnn reproduce {target} --out DIR --scale {store.scale.name} --seed {store.seed}"
    threads = store.threads or default_threads()
    return {
        "format": FORMAT,
        "version": VERSION,
        "target": target,
        "title": title,
        "command": command + ("" if store.threads is None else f" --threads {threads}"),
        "scale": asdict(store.scale),
        "seed": store.seed,
        "machine": describe_machine(threads),
        "datasets": {
            name: {"name": item.name, "digest": item.digest, "test_images": item.n_rows("test")}
            for name, item in store.opened.items()
            if name in _datasets_of(target)
        },
        "intervals": "Clopper-Pearson, two-sided, 95% at each radius",
    }
