"""The suites at a size that says nothing of speed: what they compare is alike, and nothing is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import forward, timesformer, training
from benchmarks.timing import Measurement

from revit_video.adaptive.policies import Oracle
from revit_video.models.dvt import DVT
from revit_video.models.revit import ReViT

CPU = torch.device("cpu")
SMALL: dict[str, Any] = dict(img_size=28, num_frames=2, embed_dim=16, depth=2, num_heads=2, mlp_ratio=4.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(device: torch.device, lengths: Sequence[str] = timesformer.LENGTHS, depth: int = 2) -> ReViT:
        return ReViT(num_classes=timesformer.CLASSES, lengths=lengths, **SMALL)

    def cascade(device: torch.device, lengths: Sequence[str], depth: int = 2) -> DVT:
        return DVT(num_classes=timesformer.CLASSES, lengths=lengths, **SMALL)

    for module in (forward, training):
        monkeypatch.setattr(module, "base", model)
    monkeypatch.setattr(training, "dvt_base", cascade)


def targets(rows: list[Measurement]) -> int:
    assert all(row.value >= 0 for row in rows)
    return sum(row.target is not None for row in rows)


def test_the_peer_gives_our_answers() -> None:
    pytest.importorskip("transformers")
    model = timesformer.base(CPU, ["14x14"], depth=1).eval()
    clips = timesformer.random_clips(model, 1)
    with torch.inference_mode():
        theirs = timesformer.peer(model)(clips.transpose(1, 2)).logits
        torch.testing.assert_close(model(clips, "14x14").logits, theirs, rtol=1e-4, atol=1e-4)


def test_lengths() -> None:
    assert targets(forward.lengths(CPU, 1)) == 2  # float32 alone, which is what such a model is read in


@pytest.mark.parametrize("share", forward.SHORT_SHARES)
def test_shares_are_what_they_say(share: int) -> None:
    choice = forward.evenly_mixed(20, share)
    assert len(choice) == 20 and choice.sum() * 5 == share and set(choice.tolist()) <= {0, 1}


def test_a_stream_reads_every_clip() -> None:
    model = forward.base(CPU)
    read: list[int] = []
    policy = Oracle(model, [1.0, 1.0, 1.0], batch_size=4)
    policy.buckets.run = lambda clips, length: read.append(len(clips)) or torch.zeros(len(clips), 2)  # type: ignore
    forward._stream(policy, timesformer.random_clips(model, 4), forward.evenly_mixed(20, 45))
    assert sum(read) == 20 and not len(policy.buckets)


def test_growth(tmp_path: Path) -> None:
    picture = tmp_path / "growth.png"
    rows = training.growth(CPU, 1, str(picture))
    assert targets(rows) == 3 and picture.read_bytes().startswith(b"\x89PNG")
    separate = {row.name: row.value for row in rows if "separate models: parameters" in row.name}
    ours = {row.name: row.value for row in rows if "ReViT-B: parameters" in row.name}
    dvt = {row.name: row.value for row in rows if "DVT: parameters" in row.name}
    one, *others = zip(separate.values(), ours.values(), dvt.values(), strict=True)
    assert len(set(one)) == 1 and all(stacked > theirs > own for theirs, own, stacked in others)
    assert [row.name for row in rows if "DVT: time" in row.name] == [
        f"{k} lengths, DVT: time a step" for k in range(1, 5)
    ]
