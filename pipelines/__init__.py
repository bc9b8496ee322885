"""Pipelines: the long jobs behind the command line, on files."""
