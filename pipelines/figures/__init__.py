"""Figures of certificates, with published values."""
