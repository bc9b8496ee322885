"""Training: from labelled samples to boxes. Knows no Dask and no Zarr."""
