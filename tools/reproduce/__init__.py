"""The paper's tables and figures, from runs of its rows; `tools/reproduce.py` makes them."""
