"""Box-NN: classifiers that are provably robust to sparse (l0) perturbations.

The public names are imported on first use, so that ``import boxnn_numba`` and
``boxnn --help`` do not wait for Numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxnn_numba.boxes import Boxes
    from boxnn_numba.certificates import (
        certified_accuracy,
        certified_radius,
        median_certified_radius,
    )
    from boxnn_numba.distances import box_distance, class_distance, pairwise_distance
    from boxnn_numba.estimator import BoxNNClassifier
    from boxnn_numba.grid import Grid
    from boxnn_numba.model import BoxNN, Certificate, fit
    from boxnn_numba.model_file import load_model, save_model

__version__ = "0.1.0"

_HOME = {
    "BoxNN": "model",
    "BoxNNClassifier": "estimator",
    "Boxes": "boxes",
    "Certificate": "model",
    "Grid": "grid",
    "box_distance": "distances",
    "certified_accuracy": "certificates",
    "certified_radius": "certificates",
    "class_distance": "distances",
    "fit": "model",
    "load_model": "model_file",
    "median_certified_radius": "certificates",
    "pairwise_distance": "distances",
    "save_model": "model_file",
}

__all__ = [
    "BoxNN",
    "BoxNNClassifier",
    "Boxes",
    "Certificate",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
