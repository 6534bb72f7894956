"""YAML of any origin as a tree of plain values, in bounded time and memory; errors name file and line."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

import yaml

from revit_video.runtime.text import printable

MOST_BYTES, MOST_LEVELS = 1 << 17, 16
LONGEST_NUMBER = 1000  # characters; Python writes no longer ones out, and takes long to read them


class YamlError(ValueError):
    """A text that is no YAML, or more than a config needs; one line, without the file."""


class _Loader(yaml.SafeLoader):
    """Plain values only: no aliases, which can stand for more than any memory holds, and no key twice."""

    levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            line, name = event.start_mark.line + 1, event.anchor
            raise YamlError(f"line {line}: *{printable(name[:60])}: an alias; write the value again instead")
        if self.levels == MOST_LEVELS:
            raise YamlError(f"line {event.start_mark.line + 1}: more than {MOST_LEVELS} levels")
        self.levels += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.levels -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = dict[Any, int]()  # the line of each name
        for name, _ in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise YamlError(f"line {line}: a name must be text")
            if name.value in seen:
                lines = f"in lines {seen[name.value]} and {line}"
                raise YamlError(f"line {line}: {printable(name.value[:60])} stands twice, {lines}")
            seen[name.value] = line
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    if len(node.value) > LONGEST_NUMBER:
        words = f"a number of more than {LONGEST_NUMBER} characters"
        raise YamlError(f"not YAML: line {node.start_mark.line + 1}: {words}")
    is_whole = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if is_whole else loader.construct_yaml_float(node)


for kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _number)


def read_yaml(path: str) -> Any:
    """The tree in a file.

    Raises:
        OSError: it cannot be read.
        YamlError: see there.
    """
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise YamlError("a folder, not a file" if os.path.isdir(path) else "no ordinary file")
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise YamlError(f"larger than {MOST_BYTES >> 10} KiB, which no config is")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(f"line {line}: not UTF-8 text") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """The tree in a text.

    Raises:
        YamlError: see there.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(f"not YAML: {place}{printable(str(error.problem or error.context))}") from None
    except YamlError:
        raise
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # such as the date 2024-99-99
        raise YamlError(f"not YAML: {printable(' '.join(str(error).split())[:200])}") from None


class _Dumper(yaml.SafeDumper):
    """Groups as blocks, lists on one line."""


_Dumper.add_multi_representer(dict, lambda dumper, node: dumper.represent_dict(node.items()))
_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """The text of a tree, in its order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
