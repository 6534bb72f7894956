"""Attacks on a toy run, made by `tools/campaign.py`."""
