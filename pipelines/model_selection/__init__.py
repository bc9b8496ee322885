"""Frontiers and studies: models chosen on held-out training data."""
