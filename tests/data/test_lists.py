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
        ("a.mp4 0_1\n", "train.csv:1: label '0_1' is not a whole number; a line is '<video path> <label>'"),
        ("a.mp4 \u0661\n", "train.csv:1: label '\u0661' is not a whole number"),
        ("a.mp4 1.0\n", "train.csv:1: label '1.0' is not a whole number"),
        ("0 a.mp4\n", "train.csv:1: label 'a.mp4' is not a whole number; a line is '<video path> <label>'"),
        (
            "a.mp4 250 0\n",
            "train.csv:1: 3 columns in 'a.mp4 250 0'; a line is '<video path> <label>' and noth",
        ),
        (
            "a.mp4 0 train\n",
            "train.csv:1: label 'train' is not a whole number; a line is '<video path> <label>'",
        ),
        (
            "a b.mp4,0\nc.mp4,1\n",
            "train.csv: ',' divides path and label there, not ' '; give DATA.PATH_LABEL_SEP",
        ),
        ("path,label\na.mp4,0\n", "; give DATA.PATH_LABEL_SEPARATOR ','"),
        ("a b.mp4\t0\n", "; give DATA.PATH_LABEL_SEPARATOR '\\t'"),
        ("a b.mp4;0\n", "; give DATA.PATH_LABEL_SEPARATOR ';'"),
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


@pytest.mark.parametrize("separator", [",", "\t", "\\t"])
def test_quotes_are_those_of_csv_files(separator: str, tmp_path: Path) -> None:
    between = "," if separator == "," else "\t"
    lines = ('"a, b.mp4"', "1"), ("c.mp4", '"0"'), ('"say ""d"".mp4"', " 2")
    (tmp_path / "train.csv").write_text("".join(f"{between.join(line)}\n" for line in lines))
    videos = read_list(str(tmp_path / "train.csv"), "/data", separator, 3)
    found = [(path, info["label"]) for path, info in map(videos.__getitem__, range(3))]
    assert found == [("/data/a, b.mp4", 1), ("/data/c.mp4", 0), ('/data/say "d".mp4', 2)]


def test_paths_are_found_however_they_are_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home folder, backslashes, accents as another system writes them; what is there is taken as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    there = ["home/a.mp4", "sub/b.mp4", "la\u0308uft/c.mp4", "h\u00fcpft.mp4", "d\\e.mp4", "f.mp4 7"]
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    written = [
        "~/a.mp4",
        "sub\\b.mp4",
        "l\u00e4uft\\c.mp4",
        "hu\u0308pft.mp4",
        "d\\e.mp4",
        "f.mp4 7",
        "~c\\\u00fc.mp4",
    ]
    (tmp_path / "train.csv").write_text("".join(f"{name} 0\n" for name in written))
    videos = read_list(str(tmp_path / "train.csv"))
    found = [videos[row][0] for row in range(len(videos))]
    assert found == [str(tmp_path / name) for name in [*there, written[-1]]]


def test_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_list(str(tmp_path / "nowhere.csv"))


def test_class_names(tmp_path):
    assert read_class_names(str(tmp_path), 2) is None
    (tmp_path / "classes.txt").write_text("arm wrestling\njuggling\n")
    assert read_class_names(str(tmp_path), 2) == ["arm wrestling", "juggling"]
    with pytest.raises(ValueError, match="2 classes, the model has 3"):
        read_class_names(str(tmp_path), 3)
    (tmp_path / "classes.txt").write_text("l\u00e4uft\nla\u0308uft\n")
    with pytest.raises(ValueError, match="twice"):
        read_class_names(str(tmp_path))
