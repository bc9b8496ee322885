"""Certificates: how many features may be rewritten before a prediction can change."""

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
