"""Merge the defaults, YAML files and `KEY VALUE` pairs into a validated, frozen config."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from fvcore.common.config import BASE_KEY, CfgNode

from revit_video.config.defaults import get_cfg
from revit_video.config.foreign import RENAMED, migrate, without_effect
from revit_video.config.rules import Mistake, brief, find_mistakes, get
from revit_video.config.shipped import find_config
from revit_video.runtime.text import printable
from revit_video.runtime.yaml_file import YamlError, dump_yaml, parse_yaml, read_yaml

MOST_SHOWN, MOST_FILES = 30, 100  # mistakes in a message; files that a config is made of
ALIKE = 0.75  # likeness of two keys' names from which one may be meant by the other

logger = logging.getLogger(__name__)

# Lists whose elements have no single type; `rules.py` checks them.
MIXED_LISTS = ("REVIT.TOKEN_LENGTHS", "DATA.REVERSED_CLASSES")
# Texts that may be a number, or true or false, too.
WORDS_OR_NUMBERS = ("TRAIN.FREEZE", "MODEL.COMPILE", "DATA_LOADER.NUM_WORKERS")
BOOLS = ("true", "false")
# Names of files and folders, in which `~` stands for the home folder.
PATHS = (
    *("OUTPUT_DIR", "TRAIN.CHECKPOINT_FILE_PATH", "TEST.CHECKPOINT_FILE_PATH"),
    *("DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX", "DATA.TOKEN_LABELS"),
)
# Keys of earlier versions: the default, which is still accepted, and what to say of other values.
REMOVED: dict[str, tuple[Any, str]] = {
    "MINE.BATCH_SIZE": (0, "TEST.BATCH_SIZE is used"),
    "ASSIGNER.LABEL_SMOOTHING": (0.0, "the assigner is trained without label smoothing"),
}
TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}


class ConfigError(ValueError):
    """All mistakes of a config, one per line."""

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        more = [f"and {len(mistakes) - MOST_SHOWN} more"] if len(mistakes) > MOST_SHOWN else []
        super().__init__("\n  ".join([f"{source}: {count}", *mistakes[:MOST_SHOWN], *more]))


def load_cfg(
    path: str | None,
    opts: Sequence[Any] = (),
    more_rules: Callable[[CfgNode], Iterable[Mistake]] = lambda cfg: (),
) -> CfgNode:
    """The frozen config of a run.

    Args:
        path: a YAML file, or the name of a config of the package; None for the defaults. Its `_BASE_` names
            one file or a list of files, relative to it, to start from.
        opts: `["KEY", "VALUE", ...]` as on a command line; strings are parsed as YAML unless the key is text.
        more_rules: yields the mistakes that a component finds in the merged config.

    Raises:
        ConfigError: with all unknown keys, wrong types, illegal values and broken rules.
    """
    path = path and find_config(os.path.expanduser(path))
    cfg, mistakes = get_cfg(), list[str]()
    defaults = {key: get(cfg, key) for key in leaf_keys(cfg)}
    wrong_keys = set()
    for origin, key, value in [*_our_items(path, defaults), *_option_items(opts)]:
        try:
            _set(cfg, key, value, defaults, advise=len(mistakes) < MOST_SHOWN)
        except ValueError as error:
            mistakes.append(f"{printable(key[:100])}: {error}{'' if origin == path else f' ({origin})'}")
            wrong_keys.add(key)
    # A key whose value was refused still has its default: no rule with this key can be checked.
    found = (*find_mistakes(cfg), *more_rules(cfg))
    mistakes += [str(m) for m in found if wrong_keys.isdisjoint(m.keys)]
    if mistakes:
        raise ConfigError(path or "config", mistakes)
    cfg.freeze()
    return cfg


def migrated(path: str) -> str:
    """A YAML file of TimeSformer's or SlowFast's public code as one of this project, with what changed.

    Raises:
        ConfigError: it cannot be read, or is none of theirs.
    """
    given = {key: value for _, key, value in _file_items(path)}
    found = migrate(given, set(leaf_keys(get_cfg())))
    if found is None:
        raise ConfigError(path, ["has no key of TimeSformer's or SlowFast's code; nothing is to be migrated"])
    head = [f"# {printable(line)}" for line in found.changed]
    head += [f"# {printable(key)}: left out; {why}" for key, why in found.left_out.items()]
    return "\n".join([*head, _as_yaml(found.options)])


def _as_yaml(options: Mapping[str, Any]) -> str:
    """Dotted keys as groups."""
    tree: dict[str, Any] = {}
    for key, value in options.items():
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return dump_yaml(tree)


def yaml_options(path: str) -> list[Any]:
    """`["KEY", value, ...]` of one YAML file, as for `load_cfg`, without those of its `_BASE_` files."""
    return [word for item in _flatten(_read_yaml(path)) if item[0] != BASE_KEY for word in item]


def dump_cfg(cfg: CfgNode) -> str:
    """`cfg` as YAML text in the order of the defaults; `load_cfg` returns an equal config."""
    return dump_yaml(cfg)


# ---- Where keys come from --------------------------------------------------------------------------------

Item = tuple[str, str, Any]  # origin, dotted key, value


def _file_items(
    path: str | None, including: tuple[str, ...] = (), read: set[str] | None = None
) -> Iterator[Item]:
    """The items of a YAML file after those of its `_BASE_` files.

    Args:
        including: the files that led here.
        read: files whose items were given already; each is read once.
    """
    if path is None:
        return
    own, read = os.path.realpath(path), set() if read is None else read
    if own in including:
        raise ConfigError(including[0], [f"{BASE_KEY}: {path} includes itself"])
    if own in read:
        return
    if len(read) == MOST_FILES:
        raise ConfigError(path, [f"{BASE_KEY}: more than {MOST_FILES} files"])
    read.add(own)
    tree = _read_yaml(path)
    bases = tree.pop(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ConfigError(
                path, [f"{BASE_KEY}: must be a file name or a list of them, got {brief(bases)}"]
            )
        base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        yield from _file_items(base_path, (*including, own), read)
    yield from ((path, key, value) for key, value in _flatten(tree))


def _our_items(path: str | None, defaults: Mapping[str, Any]) -> list[Item]:
    """`_file_items`, without the keys of TimeSformer's and SlowFast's code that have no effect here.

    Raises:
        ConfigError: it holds keys of theirs that are others here; shows the file as it would be here.
    """
    items = list(_file_items(path))
    found = migrate({key: value for _, key, value in items}, defaults)
    if path is None or found is None:
        return items
    if found.changed:
        advice = "a YAML of TimeSformer's or SlowFast's code; as one of this project (revit-video migrate):"
        raise ConfigError(path, ["\n  ".join([advice, *migrated(path).splitlines()])])
    for key, why in found.left_out.items():
        logger.info("%s: %s is left out: %s", path, key, why)
    return [item for item in items if item[1] not in found.left_out]


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(path, ["no such file, and no config of `revit-video config`"]) from None
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror or error}"]) from None
    except YamlError as error:
        raise ConfigError(path, [str(error)]) from None
    if not isinstance(tree, dict | None):
        raise ConfigError(path, [f"must be `KEY: value` lines, got {type(tree).__name__}"])
    return tree or {}


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _option_items(opts: Sequence[Any]) -> Iterator[Item]:
    if len(opts) % 2:
        raise ConfigError("command line", [f"{opts[-1]}: a KEY without a VALUE"])
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        yield "command line", key, _Text(value) if isinstance(value, str) else value


class _Text(str):
    """A value from the command line, whose type depends on the key."""

    def parse(self) -> Any:
        try:
            return parse_yaml(self)
        except YamlError:
            return str(self)


# ---- Merging one value -----------------------------------------------------------------------------------


def _set(cfg: CfgNode, key: str, value: Any, defaults: Mapping[str, Any], advise: bool) -> None:
    """Set `key` to `value`; ValueError for an unknown key, a group of keys, or a value of another type.

    Args:
        advise: name the key that an unknown one is most like, which takes a few milliseconds.
    """
    if key in REMOVED:
        neutral, advice = REMOVED[key]
        if (value.parse() if isinstance(value, _Text) else value) != neutral:
            raise ValueError(f"no longer exists; {advice}")
        return
    if key not in defaults:
        if members := [name for name in defaults if name.startswith(f"{key}.")]:
            if value is None:  # a group in YAML whose keys are all commented out
                return
            raise ValueError(f"is a group of keys; set one of them, such as {members[0]}")
        if key in RENAMED:
            raise ValueError(f"TimeSformer's or SlowFast's; here {RENAMED[key]}")
        if why := without_effect(key):
            raise ValueError(f"TimeSformer's or SlowFast's; leave it out: {why}")
        nearest = nearest_key(key[:100], list(defaults)) if advise else ""
        raise ValueError(f"no such key{nearest and f'; nearest: {nearest}'}")
    default = defaults[key]
    if isinstance(value, _Text):
        as_text = isinstance(default, str) and not (key in WORDS_OR_NUMBERS and value.lower() in BOOLS)
        value = str(value) if as_text else value.parse()
    group, _, name = key.rpartition(".")
    node = get(cfg, group) if group else cfg
    if key in WORDS_OR_NUMBERS and isinstance(value, int):
        value = str(value)
    value = _plain_lists(value) if key in MIXED_LISTS else _coerce(value, default)
    node[name] = os.path.expanduser(value) if key in PATHS else value


def leaf_keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Every dotted key, in the order of the defaults."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaf_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def nearest_key(key: str, known: Sequence[str]) -> str:
    """The known key most similar to `key`; no text if none has a similar name in its group."""
    name = key.upper().rpartition(".")[2]
    alike = [
        one for one in known if SequenceMatcher(None, name, one.upper().rpartition(".")[2]).ratio() >= ALIKE
    ]
    return next(iter(get_close_matches(key.upper(), alike, 1, cutoff=0)), "")


def _coerce(value: Any, default: Any) -> Any:
    """`value` in the type of `default`, from an int for a float or a tuple for a list; else ValueError."""
    wanted = type(default)
    if wanted is list and isinstance(value, list | tuple):
        return [
            _coerce(element, default[0] if default else 0.0) for element in value
        ]  # empty lists hold floats
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # YAML 1.1 takes 1e-4 for text
            value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise ValueError(f"must be {TYPE_WORDS[wanted]}, got {brief(value)}")
    return value


def _plain_lists(value: Any) -> list[Any]:
    """Nested lists and tuples as nested lists; ValueError for anything else."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list, got {brief(value)}")
    return [_plain_lists(element) if isinstance(element, list | tuple) else element for element in value]
