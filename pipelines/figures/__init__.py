"""Figures: what is drawn of certificates, and the published values beside them."""
