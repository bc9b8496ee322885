"""Backends: where kernels run, behind one protocol; they see arrays only."""
