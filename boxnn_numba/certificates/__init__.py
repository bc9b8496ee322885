"""Certificates: how many features may be rewritten before a prediction can change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxnn_numba._lazy import lazy_names

if TYPE_CHECKING:
    from boxnn_numba.certificates.exact import ExactRadius, exact_radii, exact_radius
    from boxnn_numba.certificates.margin import (
        certified_accuracy,
        certified_radius,
        mean_certified_radius,
        median_certified_radius,
    )
    from boxnn_numba.certificates.pairwise import pairwise_radius
    from boxnn_numba.classifier import Certificate

#: Certificates by name, each at least as large as the one before.
KINDS = ("margin", "pairwise", "exact")

__all__ = [
    "KINDS",
    "Certificate",
    "ExactRadius",
    "certified_accuracy",
    "certified_radius",
    "exact_radii",
    "exact_radius",
    "mean_certified_radius",
    "median_certified_radius",
    "pairwise_radius",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "certificates.exact": "ExactRadius exact_radii exact_radius",
        "certificates.margin": "certified_accuracy certified_radius "
        "mean_certified_radius median_certified_radius",
        "certificates.pairwise": "pairwise_radius",
        "classifier": "Certificate",
    },
)
