"""Box-NN: classifiers that are provably robust to sparse (l0) perturbations.

The public names are imported on first use, so that ``import boxnn_numba`` and
``boxnn --help`` do not wait for Numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from boxnn_numba._version import __version__ as __version__

if TYPE_CHECKING:
    from boxnn_numba.boxes import Boxes
    from boxnn_numba.certificates.margin import (
        certified_accuracy,
        certified_radius,
        median_certified_radius,
    )
    from boxnn_numba.classifier import Certificate
    from boxnn_numba.data.model_store import load_model, save_model
    from boxnn_numba.display import CertifiedAccuracyDisplay
    from boxnn_numba.distances import box_distance, class_distance, pairwise_distance
    from boxnn_numba.estimator import BoxNNClassifier
    from boxnn_numba.grid import Grid
    from boxnn_numba.model import BoxNN
    from boxnn_numba.training.fit import fit

__all__ = [
    "BoxNN",
    "BoxNNClassifier",
    "Boxes",
    "Certificate",
    "CertifiedAccuracyDisplay",
    "Grid",
    "box_distance",
    "certified_accuracy",
    "certified_radius",
    "class_distance",
    "fit",
    "load_model",
    "median_certified_radius",
    "pairwise_distance",
    "save_model",
]

_HOMES = {
    "boxes": "Boxes",
    "certificates.margin": "certified_accuracy certified_radius median_certified_radius",
    "classifier": "Certificate",
    "data.model_store": "load_model save_model",
    "display": "CertifiedAccuracyDisplay",
    "distances": "box_distance class_distance pairwise_distance",
    "estimator": "BoxNNClassifier",
    "grid": "Grid",
    "model": "BoxNN",
    "training.fit": "fit",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names.split():
            value = globals()[name] = getattr(import_module(f"boxnn_numba.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
