"""A trained model as graphs for other runtimes, with its policy."""
