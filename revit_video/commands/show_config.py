"""`config`: the configs of the package, one of them in full, or the meaning of a key."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from pathlib import Path

from revit_video.config import dump_cfg, load_cfg
from revit_video.config.load import nearest_key
from revit_video.config.reference import KeyEntry, key_entries
from revit_video.config.shipped import find_config, shipped_configs
from revit_video.runtime.text import printable_lines


def config_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Prints what is asked for."""
    parser.add_argument(
        "what",
        metavar="CONFIG | KEY",
        nargs="?",
        help="a config of the package or a YAML file, printed with all its keys; or a key or group of keys, "
        "explained; none: the configs of the package",
    )
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="keys that override the config's")
    arguments = parser.parse_args(words)
    what, entries = arguments.what, [entry for entry in key_entries() if entry.name]
    try:
        if what is None:
            print("\n".join(shipped_configs()))
        elif found := [e for e in entries if e.name == what.upper() or e.name.startswith(f"{what.upper()}.")]:
            print("\n".join(_explained(found)))
        elif Path(find_config(what)).is_file():
            print(dump_cfg(load_cfg(what, arguments.opts)), end="")
        else:
            nearest = nearest_key(what[:100], [*(entry.name for entry in entries), *shipped_configs()])
            parser.error(f"{what[:100]!r} is neither a key nor a config{nearest and f'; nearest: {nearest}'}")
    except ValueError as error:
        parser.exit(2, f"{printable_lines(f'error: {error}')}\n")


def _explained(entries: Iterable[KeyEntry]) -> list[str]:
    """Each key with its default, and below it its meaning."""
    return [f"{name}  (default: {default!r})\n  {meaning}" for name, default, meaning in entries]
