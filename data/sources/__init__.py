"""Sources: named data sets and users' own files, read block by block."""
