"""What runs need around the learning: ranks, checkpoints, result files, messages."""
