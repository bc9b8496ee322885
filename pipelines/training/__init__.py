"""Training on files, on one machine or a cluster."""
