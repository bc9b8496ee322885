"""Attacks on a split, and what they say of certificates."""
