"""Files of boxnn on Zarr, and the sources of data."""
