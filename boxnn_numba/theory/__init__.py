"""Theory: what the paper proves on localization, impossibility and volumes, as functions."""
