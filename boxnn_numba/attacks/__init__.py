"""Attacks: small changes of an input that change its prediction."""
