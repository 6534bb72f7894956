"""The example on a local Ray with two actors, one of which is killed: every file is answered once."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from revit_video.commands.predict_files import SHIPPED
from tests.toy import ROOT

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None or find_spec("pyarrow") is None,
    reason="the packages of the extra `ray` are not installed",
)
FILES = 60
DRIVER = """
import os, signal, sys
import ray
import ray_predict

class Mortal(ray_predict.Classify):
    def __call__(self, batch):
        try:
            os.close(os.open(sys.argv[4], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return super().__call__(batch)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    killed = sys.argv.pop()
    seen = {"env_vars": {"KILLED": killed}}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=seen)
    ray_predict.Classify = Mortal
    ray_predict.main()
"""


def test_every_file_is_answered_once_though_an_actor_dies(tmp_path: Path) -> None:
    import pyarrow.parquet

    clips = sorted(SHIPPED.glob("*.mp4"))
    files = [tmp_path / f"{n:02}.mp4" for n in range(FILES)]
    for n, file in enumerate(files):
        file.symlink_to(clips[n % len(clips)])
    files.append(tmp_path / "nowhere.mp4")
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in files))
    (tmp_path / "driver.py").write_text(DRIVER.replace("sys.argv[4]", 'os.environ["KILLED"]'))
    killed = tmp_path / "killed"
    words = [SHIPPED, tmp_path / "list.txt", tmp_path / "answers", "--batch-size", "8", killed]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}:{tmp_path}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, str(tmp_path / "driver.py"), *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert killed.exists()
    answers = pyarrow.parquet.read_table(tmp_path / "answers").to_pylist()
    assert sorted(row["path"] for row in answers) == sorted(map(str, files))
    by_path = {row["path"]: row for row in answers}
    assert by_path[str(files[-1])]["error"] == "no such file"
    names = {by_path[str(file)]["class"] for file in files[:3]}
    assert names == {clip.stem.split("_")[1] for clip in clips}
