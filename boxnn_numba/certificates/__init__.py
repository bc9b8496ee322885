"""Certificates: how many features may be rewritten without changing a prediction."""
