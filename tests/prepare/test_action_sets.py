"""Something-Something V2, UCF101, HMDB51 and Diving48; videos by their names alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import simplejson

from tests.prepare.files import listed, prepared, touch, write

SSV2_LABELS = {"Closing something": "1", "Approaching something with your camera": "0"}
SSV2_TRAIN = [
    {
        "id": "78687",
        "label": "closing the box",
        "template": "Closing [something]",
        "placeholders": ["the box"],
    },
    {
        "id": "42326",
        "label": "approaching cup with your camera",
        "template": "Approaching [something] with your camera",
        "placeholders": ["cup"],
    },
]
SSV2_VAL = [
    {"id": "74225", "label": "closing door", "template": "Closing [something]", "placeholders": ["door"]}
]


@pytest.mark.parametrize(
    ("prefix", "video"),
    [
        ("something-something-v2-", "20bn-something-something-v2/{}.webm"),
        ("", "something_videos/{}.webm"),
        ("something-something-v2-", "sthv2/videos/{}.mp4"),
    ],
    ids=["20BN", "Qualcomm's labels/", "converted"],
)
def test_ssv2(prefix: str, video: str, tmp_path: Path) -> None:
    parts = {"labels": SSV2_LABELS, "train": SSV2_TRAIN, "validation": SSV2_VAL, "test": [{"id": "1420"}]}
    for name, content in parts.items():
        write(tmp_path / "labels", **{f"{prefix}{name}__json": simplejson.dumps(content)})
    videos = touch(tmp_path / "videos", [video.format(name) for name in ("78687", "42326", "74225", "1420")])
    done = prepared(tmp_path, "ssv2", videos, tmp_path / "labels")
    assert list(done.classes) == ["Approaching something with your camera", "Closing something"]
    suffix = Path(video).suffix
    assert listed(tmp_path, "train") == {
        f"78687{suffix}": "Closing something",
        f"42326{suffix}": "Approaching something with your camera",
    }
    assert listed(tmp_path, "val") == listed(tmp_path, "test") == {f"74225{suffix}": "Closing something"}
    assert len(done.annotations) == 3 and done.is_complete


def test_another_sets_annotation_is_refused(tmp_path: Path) -> None:
    parts = {"labels": SSV2_LABELS, "train": [{"vid_name": "a_1", "label": 0}], "validation": []}
    for name, content in parts.items():
        write(tmp_path / "labels", **{f"{name}__json": simplejson.dumps(content)})
    with pytest.raises(ValueError, match=r"labels' is not of ssv2: KeyError\('id'\)"):
        prepared(tmp_path, "ssv2", touch(tmp_path / "videos", ["a_1.mp4"]), tmp_path / "labels")


def test_ssv2_lacks_a_file(tmp_path: Path) -> None:
    write(
        tmp_path / "labels",
        labels__json=simplejson.dumps(SSV2_LABELS),
        train__json=simplejson.dumps(SSV2_TRAIN),
    )
    videos = touch(tmp_path / "videos", ["78687.webm"])
    with pytest.raises(ValueError, match=r"no \*validation\.json in"):
        prepared(tmp_path, "ssv2", videos, tmp_path / "labels")


UCF = {
    "classInd__txt": "1 ApplyEyeMakeup\n2 HandstandPushups\n",
    "trainlist01__txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n"
    "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\n",
    "testlist01__txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
    "trainlist02__txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n",
    "testlist02__txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\r\n",
}


@pytest.mark.parametrize(
    "pattern", ["UCF-101/{}/{}.avi", "videos/{}/{}.mp4", "{1}.avi"], ids=["the archive", "converted", "flat"]
)
def test_ucf101(pattern: str, tmp_path: Path) -> None:
    annotations = write(tmp_path / "ucfTrainTestlist", **UCF)
    names = {
        "v_ApplyEyeMakeup_g08_c01": "ApplyEyeMakeup",
        "v_ApplyEyeMakeup_g01_c01": "ApplyEyeMakeup",
        "v_HandstandPushups_g08_c01": "HandstandPushups",  # the lists spell it otherwise
    }
    videos = touch(tmp_path / "videos", [pattern.format(label, name) for name, label in names.items()])
    first = prepared(tmp_path, "ucf101", videos, annotations)
    assert first.is_complete and first.clips == {"train": 2, "val": 1, "test": 1}
    assert first.same_list == {"val": "test"}
    second = prepared(tmp_path, "ucf101", videos, annotations, official_split=2)
    assert second.clips == {"train": 1, "val": 1, "test": 1}
    with pytest.raises(ValueError, match=r"no trainlist03\.txt in"):
        prepared(tmp_path, "ucf101", videos, annotations, official_split=3)


HMDB = {
    "brush_hair_test_split1__txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n"
    "April_09_brush_hair_u_nm_np1_ba_goo_1.avi 1 \n"
    "atheismus_2_brush_hair_u_nm_np1_fr_med_0.avi 2 \n"
    "Haarkaemmen_brush_hair_h_cm_np1_fr_goo_0.avi 0 \n",
    "sword_test_split1__txt": "#122_sword_f_cm_np1_le_bad_3.avi 1 \nA (1)&b_sword_f_cm_np1_le_bad_3.avi 2 \n",
}


@pytest.mark.parametrize("pattern", ["hmdb51_org/{}/{}", "{}/{}"])
def test_hmdb51(pattern: str, tmp_path: Path) -> None:
    annotations = write(tmp_path / "testTrainMulti_7030_splits", **HMDB)
    lines = [(name, line) for name, text in HMDB.items() for line in text.splitlines()]
    names = [pattern.format(name.split("_test_")[0], line[:-3]) for name, line in lines]
    done = prepared(tmp_path, "hmdb51", touch(tmp_path / "videos", names), annotations)
    assert done.is_complete and done.clips == {"train": 3, "val": 2, "test": 2}
    assert listed(tmp_path, "test") == {
        "atheismus_2_brush_hair_u_nm_np1_fr_med_0.avi": "brush_hair",
        "A (1)&b_sword_f_cm_np1_le_bad_3.avi": "sword",
    }


def test_clips_of_one_movie_are_held_out_together(tmp_path: Path) -> None:
    movies = [f"movie {n}_brush_hair_u_nm_np1_ba_goo_{k}.avi 1 \n" for n in range(10) for k in range(3)]
    annotations = write(tmp_path / "annotations", brush_hair_test_split1__txt="".join(movies))
    videos = touch(tmp_path / "videos", [f"brush_hair/{line[:-4]}" for line in movies])
    prepared(tmp_path, "hmdb51", videos, annotations, mine=0.2)
    mine = {name.split("_")[0] for name in listed(tmp_path, "mine")}
    assert len(mine) == 2 and not mine & {name.split("_")[0] for name in listed(tmp_path, "train")}


def test_diving48_prefers_the_second_version(tmp_path: Path) -> None:
    vocabulary = [["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "PIKE"]]
    dives = [{"vid_name": "-mmq0PT-u8k_00155", "label": 1, "start_frame": 0, "end_frame": 48}]
    first = write(
        tmp_path / "annotations",
        Diving48_train__json="[]",
        Diving48_test__json="[]",
        Diving48_vocab__json=simplejson.dumps(vocabulary),
        Diving48_V2_train__json=simplejson.dumps(dives),
        Diving48_V2_test__json=simplejson.dumps([dives[0] | {"vid_name": "2x00lRzlTVQ_00000", "label": 0}]),
    )
    videos = touch(tmp_path / "videos", ["rgb/-mmq0PT-u8k_00155.mp4", "rgb/2x00lRzlTVQ_00000.mp4"])
    done = prepared(tmp_path, "diving48", videos, first)
    assert list(done.classes) == ["Back_15som_05Twis_FREE", "Forward_Dive_NoTwis_PIKE"]
    assert listed(tmp_path, "train") == {"-mmq0PT-u8k_00155.mp4": "Forward_Dive_NoTwis_PIKE"}
    assert listed(tmp_path, "test") == {"2x00lRzlTVQ_00000.mp4": "Back_15som_05Twis_FREE"}
