"""Measurements of the vector index, a module per table; run them by `python benchmarks/index.py`."""
