"""Trees of files with names and a little content, and snippets of annotations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from revit_video.prepare.data_folder import Prepared
from revit_video.prepare.pipeline import DatasetFiles, Steps, prepare_data


def touch(folder: Path, names: Iterable[str]) -> Path:
    """Files that no decoder would read, for what goes by names alone."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def write(folder: Path, **texts: str) -> Path:
    """Text files; `__` in a keyword stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def prepared(
    tmp_path: Path, dataset: str, videos: Path | str, annotations: Path | str = "", **options
) -> Prepared:
    """Runs `prepare_data` into `tmp_path / "out"`, `mine` 0; options of `DatasetFiles` and `Steps`."""
    names = {"official_split", "group", "columns"} & set(options)
    source = DatasetFiles(
        dataset, str(videos), str(annotations), **{name: options.pop(name) for name in names}
    )
    return prepare_data(source, str(tmp_path / "out"), Steps(**{"mine": 0.0} | options))


def listed(tmp_path: Path, split: str) -> dict[str, str]:
    """Name of each listed file -> its class name."""
    out = tmp_path / "out"
    names = (out / "classes.txt").read_text().splitlines()
    rows = [line.rpartition(" ") for line in (out / f"{split}.csv").read_text().splitlines()]
    return {Path(path).name: names[int(label)] for path, _, label in rows}


def data_yaml(tmp_path: Path) -> dict:
    return yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
