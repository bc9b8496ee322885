"""Attacks on a split, and their comparison with certificates."""
