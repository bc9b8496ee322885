"""Certification of a split, chunk by chunk."""
