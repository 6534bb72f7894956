"""The paper's tables and figures, made by `tools/reproduce.py` from runs of their rows."""
