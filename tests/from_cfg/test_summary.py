"""What a run says of its lists."""

from __future__ import annotations

from revit_video.from_cfg.summary import mirrored


def test_classes_that_mirror_images_mix_up() -> None:
    assert mirrored(["jump", "Turn left", "turn right"]) == ("Turn left", "turn right")
    assert mirrored(["pan_right", "still", "pan_left"]) == ("pan_right", "pan_left")
    assert mirrored(["left", "leftover", "jump"]) is None
