"""Certificates: how many features may be rewritten before a prediction can change."""

from boxnn_numba.certificates.exact import ExactRadius, exact_radii, exact_radius
from boxnn_numba.certificates.explanation import (
    Explanation,
    column_importances,
    explain,
    smallest_changes,
)
from boxnn_numba.certificates.margin import (
    certified_accuracy,
    certified_radius,
    mean_certified_radius,
    median_certified_radius,
)
from boxnn_numba.certificates.pairwise import default_kind, pairwise_radius
from boxnn_numba.certificates.patch import patch_certified, patch_sides
from boxnn_numba.classifier import Certificate

#: Certificates by name: of radii, each at least as large as the one before, and of patches.
KINDS = ("margin", "pairwise", "exact", "patch")
#: What stands for `default_kind`.
AUTO = "auto"

__all__ = [
    "AUTO",
    "KINDS",
    "Certificate",
    "ExactRadius",
    "Explanation",
    "certified_accuracy",
    "certified_radius",
    "column_importances",
    "default_kind",
    "exact_radii",
    "exact_radius",
    "explain",
    "mean_certified_radius",
    "median_certified_radius",
    "pairwise_radius",
    "patch_certified",
    "patch_sides",
    "smallest_changes",
]
