"""Measurements of speed against targets, run by `tools/benchmark.py`."""
