"""The stages of a run and their order; beside `from_cfg`, the only room that reads a cfg."""
