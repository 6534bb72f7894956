"""Package metadata; tool settings are in pyproject.toml, the versions last tested in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# decord 0.6.0 is its last release: wheels for these two machines, and no source distribution.
DECORD_WHEELS = (
    "(sys_platform == 'linux' and platform_machine == 'x86_64')"
    " or (sys_platform == 'win32' and platform_machine == 'AMD64')"
)
ROOT = Path(__file__).parent
WEB = ["starlette>=0.40", "uvicorn>=0.30"]
TEST = [
    *WEB,
    "playwright>=1.45",  # with Debian's chromium; without a browser its tests are skipped
    "axe-playwright-python>=0.1.4",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "mypy>=1.11",
    "import-linter>=2.1",
    "transformers>=4.40",
]

setup(
    name="revit_video",
    # Searched for as text: importing the package could import what is not installed yet.
    version=re.search(r'^__version__ = "(.+?)"', (ROOT / "revit_video/__init__.py").read_text(), re.M)[1],
    description="Video transformers with adaptive token length (ReViT)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["revit_video", "revit_video.*"]), "revit_video.configs"],
    package_dir={"revit_video.configs": "configs"},  # `revit_video.config.shipped` finds them in both places
    package_data={
        "revit_video": [
            "py.typed",
            "report/templates/*",
            "predict/timeline_page.html",
            "web/page.*",
            "shipped/*",
        ],
        "revit_video.configs": ["*/*.yaml"],
    },
    entry_points={"console_scripts": ["revit-video = revit_video.commands.main:main"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.10",  # before it, loading weights may run code (CVE-2025-32434, CVE-2026-24747)
        "torchvision>=0.25",
        "pytorchvideo>=0.1.5",
        "av>=14.2",
        f"decord>=0.6; {DECORD_WHEELS}",
        "timm>=1.0.9",
        "huggingface_hub>=0.25",
        "pillow>=10.3",  # CVE-2024-28219
        "safetensors>=0.4",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",  # fvcore opens files through it; all paths here are local
        "simplejson>=3.17",
        "pyyaml>=6.0",
        "numpy>=1.24",
        "tensorboard>=2.14",
        "matplotlib>=3.7",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "rich>=13",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": TEST,
        "dev": [*TEST, "build>=1"],
        "audit": ["pip-audit>=2.7"],
        "hub": ["huggingface_hub>=0.25", "safetensors>=0.4"],  # the core needs them too, for weights
        "ray": ["ray[data]>=2.40"],
        "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
        "web": WEB,
    },
)
