"""Measurements of speed, each against its floor and its target; `tools/benchmark.py` runs them."""
