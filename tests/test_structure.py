"""What CONTRIBUTING.md promises of the package's structure, beside the floors that `lint-imports` checks."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "revit_video"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
LONGEST_FUNCTION, LONGEST_FILE = 60, 450  # lines


def repeated(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def test_no_file_name_occurs_twice() -> None:
    assert not repeated([file.name for file in FILES if file.name != "__init__.py"])


def test_no_public_class_or_function_name_occurs_twice() -> None:
    definitions = (ast.ClassDef, ast.FunctionDef)
    names = [node.name for tree in TREES.values() for node in tree.body if isinstance(node, definitions)]
    assert not repeated([name for name in names if not name.startswith("_")])


def test_functions_and_files_are_short() -> None:
    functions = [
        f"{file.name}:{node.lineno} {node.name}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    files = [file.name for file in FILES if len(file.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE]
    assert functions == [] and files == []


def test_nobody_outside_models_asks_which_model_it_has() -> None:
    """The one protocol is `ResizableModel`."""
    asked = re.compile(r"isinstance\([^()]*\b(ReViT|DVT)\b")
    outside = [file for file in FILES if PACKAGE / "models" not in file.parents]
    assert [file.name for file in outside if asked.search(file.read_text(encoding="utf-8"))] == []


def test_no_module_imports_in_a_circle_for_types_alone() -> None:
    """Beside what `lint-imports` sees: also imports under TYPE_CHECKING, and within functions."""
    names = {file: ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in FILES}
    imports: dict[str, set[str]] = {}
    for file, tree in TREES.items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        found = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        found |= {str(node.module) for node in nodes}
        imports[names[file]] = found & set(names.values())
    while free := [name for name, targets in imports.items() if not targets & imports.keys()]:
        for name in free:
            del imports[name]
    assert not imports
