"""Configuration: every key with its default; from a YAML file and `KEY VALUE` pairs to a `cfg`."""

from revit_video.config.defaults import get_cfg
from revit_video.config.load import ConfigError, dump_cfg, load_cfg, yaml_options

__all__ = ["ConfigError", "dump_cfg", "get_cfg", "load_cfg", "yaml_options"]
