from __future__ import annotations

from pathlib import Path

import pytest

from revit_video.data.lists import read_class_names, read_list


def test_list_is_read_with_its_folder_or_a_prefix(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("clips/a b.mp4 2\n\n/elsewhere/c.mp4 0\n")
    videos = read_list(str(path), num_classes=3)
    assert [videos[i] for i in range(len(videos))] == [
        (str(tmp_path / "clips/a b.mp4"), {"label": 2}),
        ("/elsewhere/c.mp4", {"label": 0}),
    ]
    assert read_list(str(path), prefix="/data")[0][0] == "/data/clips/a b.mp4"
    path.write_text("a,b.mp4,1\n")
    assert read_list(str(path), "/data", separator=",")[0] == ("/data/a,b.mp4", {"label": 1})


def test_texts_with_the_mark_that_some_editors_put_before_them(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("läuft/a.mp4 0\n", encoding="utf-8-sig")
    assert read_list(str(tmp_path / "train.csv"))[0][0] == str(tmp_path / "läuft/a.mp4")
    (tmp_path / "classes.txt").write_text("läuft\n", encoding="utf-8-sig")
    assert read_class_names(str(tmp_path)) == ["läuft"]
    (tmp_path / "train.csv").write_bytes("läuft/a.mp4 0\n".encode("latin-1"))
    with pytest.raises(ValueError, match="train.csv: not UTF-8"):
        read_list(str(tmp_path / "train.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", "train.csv:2: no label in 'b.mp4'"),
        ("a.mp4 jump\n", "train.csv:1: label 'jump' is not a whole number"),
        ("a.mp4 3\n", "train.csv:1: label 3 is out of range, allowed is 0 to 2"),
        ("a.mp4 -1\n", "train.csv:1: label -1 is out of range"),
        ("b.mp4\n" * 12, "… and 7 more"),
        ("\n \n", "video list is empty"),
    ],
)
def test_mistakes_in_a_list_are_named(tmp_path, text, message):
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_list(str(path), num_classes=3)
    assert message in str(caught.value)
    assert str(caught.value).count("no label") <= 5


def test_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_list(str(tmp_path / "nowhere.csv"))


def test_class_names(tmp_path):
    assert read_class_names(str(tmp_path), 2) is None
    (tmp_path / "classes.txt").write_text("arm wrestling\njuggling\n")
    assert read_class_names(str(tmp_path), 2) == ["arm wrestling", "juggling"]
    with pytest.raises(ValueError, match="2 classes, the model has 3"):
        read_class_names(str(tmp_path), 3)
