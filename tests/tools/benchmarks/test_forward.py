"""What the inference suites compare is alike, and their ratios follow from their times."""

from __future__ import annotations

import pytest
import torch
from benchmarks import forward, timesformer
from benchmarks.timing import Effort

from revit_video.adaptive.engine import Engine
from revit_video.adaptive.policies import Costs

CPU = torch.device("cpu")


def test_the_peer_gives_our_answers(small: None) -> None:
    pytest.importorskip("transformers")
    model = timesformer.base(CPU, ["14x14"], depth=1).eval()
    clips = timesformer.random_clips(model, 1)
    with torch.inference_mode():
        theirs = timesformer.peer(model)(clips.transpose(1, 2)).logits
        torch.testing.assert_close(model(clips, "14x14").logits, theirs, rtol=1e-4, atol=1e-4)


def test_lengths(small: None) -> None:
    rows = forward.lengths(CPU, Effort(1))  # in float32 alone, the precision of such a narrow model
    values = {row.name.replace(" float32, batch 4", ""): row.value for row in rows}
    assert [row.target is not None for row in rows].count(True) == 2
    assert 1 > values["10x10: FLOPs ratio"] > values["7x7: FLOPs ratio"] > 0
    for length in ("10x10", "7x7"):
        of_full = values[length] / values["14x14"]
        expected = of_full / values[f"{length}: FLOPs ratio"]
        assert values[f"{length}: time ratio / FLOPs ratio"] == pytest.approx(expected)


@pytest.mark.parametrize("share", forward.SHORT_SHARES)
def test_shares_are_what_they_say(share: int) -> None:
    choice = forward.evenly_mixed(20, share)
    assert len(choice) == 20 and choice.sum() * 5 == share and set(choice.tolist()) <= {0, 1}


def test_a_stream_classifies_every_clip_at_its_length(small: None) -> None:
    model = forward.base(CPU)
    choice = forward.evenly_mixed(20, 45)
    engine = Engine(model, forward.short_share(20, 45), Costs([1.0, 1.0, 1.0]), batch_size=4)
    for _ in range(2):
        parts = forward.stream(engine, timesformer.random_clips(model, 4), 20)
        assert sorted(torch.cat([part.lengths for part in parts]).tolist()) == sorted(choice.tolist())
        assert not len(engine.buckets)


def test_backbones(small: None) -> None:
    rows = {row.name: row.value for row in forward.backbones(CPU, Effort(1))}
    for title in ("TimeSformer-base", "VideoMAE-B"):
        times = {length: rows[f"{title} {length}, float32, batch 1"] for length in timesformer.LENGTHS}
        measured = rows[f"{title} 7x7: measured speed-up"]
        assert measured == pytest.approx(times["14x14"] / times["7x7"])
        assert rows[f"{title} 7x7: speed-up by FLOPs"] > rows[f"{title} 10x10: speed-up by FLOPs"] > 1
