"""Ranks, random number generators, output files, logging and termination."""
