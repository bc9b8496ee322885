"""Datasets: the schema on Zarr and where the data come from."""
