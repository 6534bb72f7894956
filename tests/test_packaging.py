"""Dependencies, version and public names agree between the code and the package's metadata."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import revit_video
from revit_video.config.shipped import shipped_configs

ROOT = Path(__file__).parents[1]
# Distributions whose import has another name.
DISTRIBUTION_OF = {"PIL": "pillow", "yaml": "pyyaml"}
# Imported where it is needed alone, with a clear error without it.
OPTIONAL = {"transformers", "onnxruntime", "starlette", "uvicorn"}
# PyTorch's builds for GPUs bring it, and only there is it imported.
WITH_TORCH = {"triton"}


def setup_argument(name: str) -> set[str]:
    """Names of the distributions in one list of setup.py, read without running it."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (node,) = (
        node.value
        for node in ast.walk(tree)
        if (isinstance(node, ast.keyword) and node.arg == name)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name)
    )
    texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return {match[0] for text in texts if (match := re.match(r"[\w-]+(?=>=)", str(text)))}


def imported(folder: str) -> set[str]:
    """Top-level names of everything the files below `folder` import, at any depth of their code."""
    names: set[str] = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    own = {"revit_video", *(path.stem for path in (ROOT / "tools").iterdir())}
    return names - set(sys.stdlib_module_names) - {"__future__"} - own


@pytest.mark.parametrize("folder", ["revit_video", "tools"])
def test_every_import_is_declared(folder: str) -> None:
    needed = {DISTRIBUTION_OF.get(name, name) for name in imported(folder)}
    assert needed - OPTIONAL - WITH_TORCH <= setup_argument("install_requires")


def test_what_is_optional_can_be_installed() -> None:
    extras = setup_argument("WEB") | setup_argument("extras_require")
    assert setup_argument("TEST") | extras >= OPTIONAL


def test_everything_declared_has_a_tested_version() -> None:
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert setup_argument("install_requires") | setup_argument("TEST") | setup_argument("WEB") == pinned


def test_a_wheel_has_the_command_the_configs_and_the_types(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files behind
    for name in ("revit_video", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "revit-video = revit_video.commands.main:main" in content.read(entry_points).decode()
    assert {f"revit_video/configs/{name}.yaml" for name in shipped_configs()} <= names
    templates = ("report.html", "slider.html", "style.css", "report.js")
    assert {f"revit_video/report/templates/{name}" for name in templates} <= names
    assert "revit_video/py.typed" in names


def test_version_is_the_same_everywhere() -> None:
    built = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert built.stdout.split()[-1] == revit_video.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == revit_video.__version__
    assert f"## {revit_video.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_are_imported_on_first_use() -> None:
    code = (
        "import sys, revit_video; assert 'torch' not in sys.modules; "
        "print(all(hasattr(revit_video, name) for name in revit_video.__all__), 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.stdout.split() == ["True", "True"]
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        revit_video.laod  # noqa: B018


SCRIPT = """
import revit_video

predictor = revit_video.load("outputs/demo", device="cpu", policy="longest")
answer = predictor.predict("clip.mp4")
name, share = answer.classes[0]
print(f"{name} {share:.2f} at {answer.length}, {answer.saved:.0f} % saved")
for each in predictor.predict_many(["a.mp4"], batch_size=8):
    print(each.path)
model: revit_video.ReViT = revit_video.timesformer_base(lengths=("14x14", "7x7"), num_classes=4)
again: revit_video.Predictor = revit_video.Predictor.from_pretrained("folder")
again.policy = "budget=0.5"
"""


def test_a_users_script_is_clean_for_mypy(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "mypy",
        str(tmp_path / "script.py"),
    ]  # as `make test`, whose cache it reads
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
