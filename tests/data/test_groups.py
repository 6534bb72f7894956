"""Groups of clips by their names."""

from __future__ import annotations

import pytest

from revit_video.data.groups import groups_of, series_in

UT = ["/d/kick/set1_seq01_01.mp4", "/d/kick/set1_seq02_09.mp4", "/d/hug/set1_seq01_02.mp4"]


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        ("", UT),
        (r"seq\d+", ["seq01", "seq02", "seq01"]),
        (r"_seq(\d+)_(\d+)", ["01", "02", "01"]),
        (r"^(\w+)/", ["kick", "kick", "hug"]),  # by sub-folder
    ],
)
def test_groups_are_what_the_pattern_finds(pattern: str, groups: list[str]) -> None:
    assert groups_of(UT, pattern, "/d") == groups


def test_a_file_without_a_group_is_named() -> None:
    with pytest.raises(ValueError, match=r"DATA.GROUP 'seq01' finds no group in kick/set1_seq02_09.mp4"):
        groups_of(UT, "seq01", "/d")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["set1_seq01_01.mp4", "set1_seq01_02.mp4", "set1_seq02_03.mp4", "set1_seq02_04.mp4"], "set1_seq01"),
        (["v_Archery_g01_c01.avi", "v_Archery_g01_c02.avi"], "v_Archery_g01"),  # UCF101: c is no number
        (["jump_1.mp4", "jump_2.mp4", "jump_3.mp4"], ""),  # the class alone, not a recording
        (["person01_boxing_d1_uncomp.avi", "person01_running_d1_uncomp.avi"], "person01"),  # KTH
        (["seq01_hug.mp4", "seq01_push.mp4", "seq02_hug.mp4"], "seq01"),
        (["clip001_final.mp4", "clip002_final.mp4"], ""),
        (["a1b2.mp4", "c3d4.mp4"], ""),
        (["20240101_1.mp4", "20240102_1.mp4"], ""),
    ],
)
def test_series_are_recognised(names: list[str], found: str) -> None:
    assert series_in([f"/d/{name}" for name in names], [0] * len(names)) == found


def test_a_class_with_a_number_is_no_recording() -> None:
    """ImageNet's n01440764_10026.JPEG."""
    names = ["n01_1.jpg", "n01_2.jpg", "n02_1.jpg", "n02_2.jpg"]
    assert series_in(names, [0, 0, 1, 1]) == ""
    assert series_in(names, [0, 1, 0, 1]) == "n01"
