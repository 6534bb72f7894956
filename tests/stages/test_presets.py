"""Every preset, made small, from `tools/run_net.py` to adaptive results: as one resizable model, as DVT."""

from __future__ import annotations

from pathlib import Path

import pytest

import revit_video
from revit_video.models.presets import PRESETS
from tests.images import write_pictures
from tests.toy import LENGTHS, options, results_of, table_of, tool

OF_IMAGES = {arch for arch in PRESETS if PRESETS[arch]["num_frames"] == 1}
ONE_FRAME = (
    *("MODEL.NUM_CLASSES", 0, "DATA.NUM_FRAMES", 1),
    *("DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.3,1]"),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "shapes", 20)


# DVT's models have no dense head. At toy size all TimeSformers, VideoMAEs and T2T-ViTs are alike.
ALIKE = {"videomae_base", "videomae_large", *(f"t2t_vit_{n}" for n in (10, 12, 14, 19, 24))}
CASES = [(arch, False) for arch in PRESETS if arch not in ALIKE] + [
    ("timesformer_tiny", True),
    ("deit_small", True),
    ("t2t_vit_7", True),
]


@pytest.mark.parametrize(("arch", "dvt"), CASES, ids=[arch + "-dvt" * dvt for arch, dvt in CASES])
def test_it_trains_mines_assigns_and_is_tested(
    arch: str, dvt: bool, videos: Path, pictures: Path, tmp_path: Path
) -> None:
    folder, changes = (pictures, ONE_FRAME) if arch in OF_IMAGES else (videos, ())
    run = tmp_path / "run"
    done = tool("run_net", *options(folder, run, *changes, "MODEL.ARCH", arch, "DVT.ENABLE", dvt))
    assert done.code == 0, done.err
    results = results_of(run)
    long, short = (results["static"][length]["gmacs"] for length in LENGTHS)
    spent = results["adaptive"]["gmacs"] - results["adaptive"]["assigner_gmacs"]
    assert short < long and short <= spent * (1 + 1e-9) and spent <= long * (1 + 1e-9)
    assert sum(results["adaptive"]["length_counts"].values()) == results["videos"]
    assert {row["token_length"] for row in table_of(run / "labels.csv")} <= set(LENGTHS)
    row = table_of(run / "predictions.csv")[0]
    answer = revit_video.load(run, "cpu").predict(row["video"])
    assert str(answer.length) == row["adaptive_length"]
