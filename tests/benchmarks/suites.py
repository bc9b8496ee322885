"""The suites of `bench.py`: run, gathered in a table, compared with what they must reach."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.method import Record, Settings, load_samples

from boxnn_numba import validation
from boxnn_numba.backends.threads import default_threads
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.paths import Name, exists, location
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.machine import describe_machine
from boxnn_numba.progress import SILENT, Progress

FORMAT, VERSION = "boxnn-bench", 1
#: Suite -> module and function, imported when it is run.
SUITES = {
    "kernel": ("kernels", "kernel_suite"),
    "peers": ("peers", "peers_suite"),
    "factored": ("factored", "factored_suite"),
    "pairwise": ("pairwise", "pairwise_suite"),
    "training": ("training", "training_suite"),
    "tables": ("table_rows", "tables_suite"),
    "certification": ("processes", "certification_suite"),
    "growth": ("growth", "growth_suite"),
    "startup": ("processes", "startup_suite"),
}
#: Load average, per core, from which on figures are too low.
_BUSY = 0.3


def bench(
    suites: Sequence[str] = tuple(SUITES),
    *,
    quick: bool = False,
    threads: int | None = None,
    data: Name | None = None,
    out: Name | None = None,
    plot: Name | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure this package on this machine.

    Parameters
    ----------
    suites
        Names out of `SUITES`.
    quick
        Fewer sizes and rounds; less than a minute for everything.
    threads
        Threads of the runs on all cores; every core by default.
    data
        A dataset of codes for training and certification; the bundled MNIST sample by default.
    out
        JSON file to write.
    plot
        Folder to make for PNG files of the growth and of the comparisons.
    overwrite
        Replace what is at `out` and `plot`.
    progress
        Is told of every step that is done.

    Returns
    -------
    dict
        ``machine``, ``method``, ``records`` (medians with quartiles), ``targets``, ``seconds``.

    Raises
    ------
    BoxNNError
        Unknown suite, unusable data, or an output that cannot be written.
    """
    for name in suites:
        validation.choice("suite", name, SUITES)
    for path in (out, plot):
        if path is not None and exists(location(path)) and not overwrite:
            raise OptionError(f"{path} already exists; pass --overwrite to replace it")
    cores = default_threads() if threads is None else validation.positive("threads", threads)
    result = _measure(suites, Settings(cores, quick, load_samples(data), progress.note))
    _write(result, out, plot, overwrite)
    return result


def _measure(suites: Sequence[str], settings: Settings) -> dict[str, Any]:
    began = time.perf_counter()
    machine = describe_machine(settings.threads)
    records: list[Record] = []
    for name in suites:
        module, function = SUITES[name]
        suite = getattr(import_module(f"benchmarks.{module}"), function)
        records += [{"suite": name, **item} for item in suite(settings)]
    if hasattr(os, "getloadavg"):
        machine["load_average_after"] = list(os.getloadavg())
    return {
        "format": FORMAT,
        "version": VERSION,
        "machine": machine,
        "quick": settings.quick,
        "data": settings.samples.name,
        "method": (
            f"median of {settings.rounds} rounds in which the candidates run in turn, with "
            "quartiles; ratios are taken within a round"
        ),
        "records": records,
        "targets": targets(records, settings.threads),
        "seconds": time.perf_counter() - began,
    }


def _write(result: dict[str, Any], out: Name | None, plot: Name | None, overwrite: bool) -> None:
    if out is not None:
        with staged_output(out, overwrite=overwrite, directory=False) as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from benchmarks.plots import draw

        with staged_output(plot, overwrite=overwrite, owned=_only_pictures) as folder:
            draw(result, folder)


# --- what it must reach -------------------------------------------------------------------


def targets(records: Sequence[Record], threads: int) -> list[dict[str, Any]]:
    """Compare records with what this package promises; those not measured are left out.

    Returns
    -------
    list of dict
        ``what``, ``measured`` (median), ``at_least`` or ``at_most``, and ``met``.
    """
    found: list[dict[str, Any]] = []

    def add(what: str, values: list[float], **bound: float) -> None:
        if values:
            low = "at_least" in bound
            worst = min(values) if low else max(values)
            limit = bound["at_least" if low else "at_most"]
            met = worst >= limit if low else worst <= limit
            found.append({"what": what, "measured": worst, **bound, "met": met})

    def medians(suite: str, case: str, name: str) -> list[float]:
        return [
            item["median"]
            for item in records
            if item["suite"] == suite
            and case in item["case"]
            and name in item["name"]
            and item["median"] is not None
        ]

    cores = f"{threads} cores"
    for width in (1, 128, 255):
        case = f"W={width} n=784 M=2500"
        add(
            f"class_distance {case}, 1 core, Mpairs/s", _exact(records, case, "1 core"), at_least=31
        )
    if threads > 1:
        add("class_distance n=784 M=2500, of linear scaling",
            medians("kernel", "n=784 M=2500", "scaling"), at_least=0.8)  # fmt: skip
    add("box_distance float32, 1 core, Mpairs/s",
        medians("kernel", "float32", "1 core"), at_least=8)  # fmt: skip
    ours = f"ours on {cores} / "
    for peer, least in (("SciPy", 20), ("scikit-learn", 20), ("JAX", 5)):
        add(f"distances, times {peer}", medians("peers", "", ours + peer), at_least=least)
    add("training step, times torch broadcast",
        medians("training", "step", "ours / torch broadcast"), at_least=100)  # fmt: skip
    for width in (1, 128, 255):
        shares = medians("factored", f"W={width} random", "2x2 parts / plain")
        add(f"2x2 parts, 10 rows a template, W={width}, of plain boxes", shares, at_least=0.85)
    add("epoch with 2x2 parts, times that of plain boxes",
        medians("factored", "epoch", "2x2 parts / plain"), at_most=1.25)  # fmt: skip
    best = medians("training", "step", "ours / torch")
    add("training step, times the best of torch", best, at_least=30)
    add("epoch of 60,000, M=2500, batch 1000, s",
        medians("training", "epoch batch=1000", cores), at_most=5)  # fmt: skip
    certify = "certify 10000 images"
    add("certify 10,000 images, kernel, s", _exact(records, certify, "kernel"), at_most=0.5)
    add("certify 10,000 images, process, s",
        _exact(records, certify, "whole process"), at_most=1.5)  # fmt: skip
    add("certify 10,000 images against patches, s",
        _exact(records, certify, "patches"), at_most=20)  # fmt: skip
    for job in ("certify", "training step"):
        exponents = medians("growth", f"{job}: time", "exponent")
        add(f"{job}: smallest exponent of time", exponents, at_least=0.95)
        add(f"{job}: largest exponent of time", exponents, at_most=1.05)
    add("boxnn --help, s", medians("startup", "", "boxnn --help"), at_most=0.5)
    add("import boxnn_numba, s", medians("startup", "", "import boxnn_numba"), at_most=1)
    return found


def _exact(records: Sequence[Record], case: str, name: str) -> list[float]:
    return [r["median"] for r in records if r["case"] == case and r["name"] == name]


# --- text ---------------------------------------------------------------------------------


def report_text(result: dict[str, Any]) -> str:
    """Return a result of `bench` as tables."""
    lines = _machine_lines(result)
    for suite in SUITES:
        records = [item for item in result["records"] if item["suite"] == suite]
        if records:
            lines += ["", suite, *_table(records)]
    if result["targets"]:
        lines += ["", "what it must reach"]
    for item in result["targets"]:
        sign, limit = (">=", item.get("at_least"))
        if limit is None:
            sign, limit = "<=", item["at_most"]
        verdict = "met" if item["met"] else "NOT MET"
        lines.append(
            f"  {item['what']:<52} {_number(item['measured']):>9} {sign} {limit:<6g}{verdict}"
        )
    return "\n".join([*lines, "", f"{result['seconds']:.0f} s"])


def _machine_lines(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({machine['threads']} threads used), "
        f"{machine['memory_gib']} GiB, vectors: {machine['simd_target']}",
        versions,
        f"{machine['date']}; load average {machine['load_average']}",
        f"data: {result['data']}; {result['method']}",
    ]
    load = machine["load_average"]
    if load and load[0] > _BUSY * machine["cores"]:
        lines.append("Other processes were running: figures, above all on several cores, are low.")
    return lines


def _table(records: Sequence[Record]) -> list[str]:
    rows = []
    for item in records:
        if item["median"] is None:
            rows.append((item["case"], item["name"], "-", "", item["note"]))
            continue
        spread = f"[{_number(item['q1'])}, {_number(item['q3'])}]" if item["runs"] > 1 else ""
        value = f"{_number(item['median'])} {item['unit']}".strip()
        rows.append((item["case"], item["name"], value, spread, item["note"]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines, before = [], ""
    for row in rows:
        # A case is named once, over its rows.
        if row[0] != before:
            lines.append(f"  {row[0]}")
            before = row[0]
        cells = (row[column].ljust(widths[column]) for column in (1, 2, 3))
        lines.append(("    " + "  ".join([*cells, row[4]])).rstrip())
    return lines


def _number(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _only_pictures(folder: Path) -> bool:
    return all(path.suffix == ".png" for path in folder.iterdir())
