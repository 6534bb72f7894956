"""`revit-video COMMAND …`, and the configs that come with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from revit_video.commands.convert_weights import FORMATS
from revit_video.commands.main import COMMANDS, main
from revit_video.commands.prepare_sets import DATA_SETS
from revit_video.config import load_cfg
from revit_video.config.load import leaf_keys
from revit_video.config.shipped import CONFIGS, shipped_configs
from revit_video.from_cfg.convert import EXPORTS
from revit_video.prepare.pipeline import READERS

SECONDS = 1.0


def said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["revit-video", *words])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_help_comes_without_pytorch(tmp_path: Path) -> None:
    script = (
        "import sys, time, runpy; start = time.process_time(); sys.argv[1:] = ['--help']\n"
        "try: runpy.run_module('revit_video', run_name='__main__')\n"
        "except SystemExit as left: print(left.code, 'torch' in sys.modules, time.process_time() - start)"
    )
    answer = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    *help_text, last = answer.stdout.splitlines()
    code, has_torch, seconds = last.split()
    assert (code, has_torch) == ("0", "False") and float(seconds) < SECONDS
    assert all(any(line.startswith(f"  {name} ") for line in help_text) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = said(capsys, monkeypatch, name, "--help")
    assert code == 0 and out.startswith(f"usage: revit-video {name} ")


def test_no_help_loads_pytorch() -> None:
    script = (
        "import sys; from revit_video.commands.main import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    sys.argv[:] = ['revit-video', name, '--help']\n"
        "    try: main()\n"
        "    except SystemExit as left: assert (left.code or 0, 'torch' in sys.modules) == (0, False), name\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_names_that_a_help_repeats() -> None:
    assert tuple(EXPORTS) == FORMATS and tuple(READERS) == DATA_SETS


def test_a_command_that_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = said(capsys, monkeypatch, "predct")
    assert (code, out, err.count("\n")) == (2, "", 1) and "nearest: predict" in err


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_is_found_by_name_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = load_cfg(str(CONFIGS / f"{name}.yaml"))
    assert load_cfg(name) == load_cfg(f"configs/{name}.yaml") == whole


def test_a_config_is_printed_and_a_key_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "Synthetic/ReViT_TimeSformer-tiny_divST_4x4_48"
    code, printed, _ = said(capsys, monkeypatch, "config", name, "SOLVER.MAX_EPOCH", "3")
    (tmp_path / "printed.yaml").write_text(printed)
    assert code == 0 and load_cfg(str(tmp_path / "printed.yaml")) == load_cfg(name, ["SOLVER.MAX_EPOCH", 3])
    code, printed, _ = said(capsys, monkeypatch, "config", "ADAPTIVE.MAX_DROP")
    assert code == 0 and printed.startswith("ADAPTIVE.MAX_DROP  (default: 0.5)\n  points of top-1")
    code, printed, _ = said(capsys, monkeypatch, "config", "adaptive")
    keys = [key for key in leaf_keys(load_cfg(None)) if key.startswith("ADAPTIVE.")]
    assert [line.split()[0] for line in printed.splitlines()[::2]] == keys
    code, printed, error = said(capsys, monkeypatch, "config", "ADAPTIVE.MAXDROP")
    assert (code, printed) == (2, "") and "nearest: ADAPTIVE.MAX_DROP" in error


def test_without_its_extra_web_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # type: ignore[arg-type]
    code, _, err = said(capsys, monkeypatch, "web", "anything")
    words = "error: web needs uvicorn, which is not installed: pip install 'revit_video[web]'\n"
    assert (code, err) == (2, words)
