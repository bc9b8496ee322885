"""Pipelines: the long jobs behind the command line, from Python.

| function | what it does |
|---|---|
| `ingest` | write a source as a dataset |
| `train`, `train_baseline` | train a model on a dataset or arrays; base classifiers of a defence |
| `certify`, `certify_baseline` | certify the rows of a dataset |
| `attack` | attack the rows of a dataset, and compare with certificates |
| `predict`, `explain` | write predictions with radii as a table; explain predictions |
| `evaluate` | accuracy and certified accuracy of certificates |
| `verify` | check a file, and recompute the claims of certificates and attacks |
| `ensemble` | make one model from several |
| `localize` | how localized each class is, by a certified model |
| `export_boxes`, `export_certificates`, `export_attacks` | write files for other programs |
| `frontier`, `tune` | train models for a range of radii; search training options |
| `report`, `reproduce` | compare certificates on a page; rerun experiments of the paper |

`RunOptions` are options of how a job runs, and `ClusterOptions` of where; ``IN_PROCESS`` stands for
this process.

The names are imported on first use. Where a module has the same name (``evaluate``, ``attack``,
...), the name here is the function, whichever was imported first.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxnn_numba.pipelines.attack.attack import attack as attack
    from boxnn_numba.pipelines.certification.baselines import certify_baseline
    from boxnn_numba.pipelines.certification.certify import certify
    from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions
    from boxnn_numba.pipelines.ensemble import ensemble as ensemble
    from boxnn_numba.pipelines.evaluate import evaluate as evaluate
    from boxnn_numba.pipelines.export import export_attacks, export_boxes, export_certificates
    from boxnn_numba.pipelines.ingest import ingest as ingest
    from boxnn_numba.pipelines.localize import localize as localize
    from boxnn_numba.pipelines.model_selection.frontier import frontier
    from boxnn_numba.pipelines.model_selection.tune import tune
    from boxnn_numba.pipelines.predict import explain
    from boxnn_numba.pipelines.predict import predict as predict
    from boxnn_numba.pipelines.report.report import report as report
    from boxnn_numba.pipelines.reproduce.reproduce import reproduce as reproduce
    from boxnn_numba.pipelines.running import RunOptions
    from boxnn_numba.pipelines.training.baselines import train_baseline
    from boxnn_numba.pipelines.training.train import train
    from boxnn_numba.pipelines.verify import verify as verify

__all__ = [
    "IN_PROCESS",
    "ClusterOptions",
    "RunOptions",
    "attack",
    "certify",
    "certify_baseline",
    "ensemble",
    "evaluate",
    "explain",
    "export_attacks",
    "export_boxes",
    "export_certificates",
    "frontier",
    "ingest",
    "localize",
    "predict",
    "report",
    "reproduce",
    "train",
    "train_baseline",
    "tune",
    "verify",
]

_HOMES = {
    "attack.attack": "attack",
    "certification.baselines": "certify_baseline",
    "certification.certify": "certify",
    "cluster.options": "IN_PROCESS ClusterOptions",
    "ensemble": "ensemble",
    "evaluate": "evaluate",
    "export": "export_attacks export_boxes export_certificates",
    "ingest": "ingest",
    "localize": "localize",
    "model_selection.frontier": "frontier",
    "model_selection.tune": "tune",
    "predict": "explain predict",
    "report.report": "report",
    "reproduce.reproduce": "reproduce",
    "running": "RunOptions",
    "training.baselines": "train_baseline",
    "training.train": "train",
    "verify": "verify",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names.split():
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, in which a public name is never the module or folder of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Import binds every module in its package when it has run.
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
