"""Configuration: the keys and their defaults, the rules, and loading."""

from revit_video.config.defaults import get_cfg
from revit_video.config.load import ConfigError, dump_cfg, load_cfg, migrated, yaml_options

__all__ = ["ConfigError", "dump_cfg", "get_cfg", "load_cfg", "migrated", "yaml_options"]
