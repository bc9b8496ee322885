"""`boxnn demo`: all steps on bundled images, from data to report."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import click

from boxnn_numba.cli import console, options
from boxnn_numba.cli.certify import curve_table
from boxnn_numba.errors import InterruptedRunError

if TYPE_CHECKING:
    from boxnn_numba.data.paths import Location


_STORES = "mnist-sample", "model", "cert", "attack"


@options.command("Train, certify and report on bundled real data.")
@click.option("--out", default="boxnn-demo", type=options.StorePath(), help="Folder.")
@click.option("--seed", default=0, help="Seed of the training.")
@options.overwrite()
def demo(out: str, seed: int, overwrite: bool, no_lock: bool, quiet: bool) -> options.Output:
    """Run everything on 12,000 bundled MNIST images: ingest, train, certify, attack, report.

    Needs no network and less than a minute. The folder holds the dataset, the
    model, the certificates, attacks on all 2,000 test images and the report.
    """
    from boxnn_numba.data.atomic import holds_only, output_folder
    from boxnn_numba.pipelines.compile_ahead import compiled_ahead
    from boxnn_numba.pipelines.report.report import FILES

    stores = dict.fromkeys(f"{name}.zarr" for name in _STORES)
    content = {**stores, "report": dict.fromkeys((*FILES, "gallery_cert.png"))}
    how = {"overwrite": overwrite, "no_lock": no_lock}
    try:
        owned = functools.partial(holds_only, content=content)
        with output_folder(out, owned=owned, **how) as folder, compiled_ahead():
            return _demo(folder, seed, quiet)
    except InterruptedRunError:
        raise InterruptedRunError(
            f"interrupted; `boxnn demo --out {out} --overwrite` starts again"
        ) from None


def _demo(folder: Location, seed: int, quiet: bool) -> options.Output:
    began = time.perf_counter()
    from boxnn_numba.pipelines.attack.attack import AttackOptions
    from boxnn_numba.pipelines.attack.attack import attack as run_attack
    from boxnn_numba.pipelines.certification.certify import certify
    from boxnn_numba.pipelines.evaluate import evaluate
    from boxnn_numba.pipelines.ingest import ingest
    from boxnn_numba.pipelines.report.report import report
    from boxnn_numba.pipelines.running import RunOptions
    from boxnn_numba.pipelines.training.train import train
    from boxnn_numba.training.options import resolve

    data, model, cert, attack = (folder / f"{name}.zarr" for name in _STORES)
    with console.progress(quiet, "1/5 ingesting") as bar:
        ingest("mnist-sample", data, run=RunOptions(progress=bar))
    settings = resolve("graded", {"boxes": 1000, "epochs": 5, "seed": seed})
    with console.progress(quiet, "2/5 training") as bar:
        train(data, model, settings, run=RunOptions(progress=bar))
    with console.progress(quiet, "3/5 certifying") as bar:
        certify(model, data, cert, run=RunOptions(progress=bar))
    with console.progress(quiet, "4/5 attacking") as bar:
        # The greedy attack finds less to change, and would compile for longer than all else runs.
        run_attack(model, data, attack, AttackOptions("quick"), run=RunOptions(progress=bar))
    with console.progress(quiet, "5/5 reporting") as bar:
        report([cert], folder / "report", attacks=[attack], run=RunOptions(progress=bar))
    result = evaluate(cert, range(0, 41, 4), attack=attack).as_dict()
    page = folder / "report" / "report.html"
    result |= {"report": str(page), "seconds": time.perf_counter() - began}
    return result, f"{curve_table(result)}\n\n{result['seconds']:.1f} s; report: {page}"
