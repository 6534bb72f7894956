"""From a config to objects and stages: the only package, beside `config`, that reads `cfg`."""
