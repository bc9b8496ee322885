"""Attacks: small changes of an input that change its prediction."""

from boxnn_numba.attacks.adapters import art_classifier, foolbox_model
from boxnn_numba.attacks.domain import Domain, domain_of
from boxnn_numba.attacks.greedy import greedy_attack
from boxnn_numba.attacks.quick import quick_attack
from boxnn_numba.attacks.result import AttackResult
from boxnn_numba.attacks.search import random_search

__all__ = [
    "AttackResult",
    "Domain",
    "art_classifier",
    "domain_of",
    "foolbox_model",
    "greedy_attack",
    "quick_attack",
    "random_search",
]
