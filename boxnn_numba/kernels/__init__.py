"""Numba kernels: formulas once, loops around them."""
