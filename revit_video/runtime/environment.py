"""What a result was made with: the machine, the versions, the commit, the time."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import torch

from revit_video.runtime.ranks import usable_cores

PACKAGE = Path(__file__).parents[1]


def environment(device: torch.device, ranks: int, version: str) -> dict[str, str]:
    """By name; what is not known is left out."""
    found: dict[str, str] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "ranks": str(ranks),
        "cores": str(usable_cores()),
        "revit_video": version,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda" and torch.version.cuda:
        found["cuda"] = torch.version.cuda
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _processor() -> str:
    """Its model, where the system tells it."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Of the checkout that the package runs from, `-dirty` with changes; empty where it is none."""
    if not (PACKAGE.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(PACKAGE.parent), "describe", "--always", "--dirty", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=os.environ | {"LC_ALL": "C"}
        )
        return done.stdout.strip()
    return ""
