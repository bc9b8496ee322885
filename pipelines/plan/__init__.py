"""The plan: predicted times and memory of jobs on a cluster."""
