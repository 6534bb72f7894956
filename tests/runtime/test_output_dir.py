"""The files that scripts read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import simplejson

from revit_video.runtime import output_dir
from tests.toy import table_of

# All that Unicode, Python or CSV may take for the end of a line.
LINE_BREAKS = ("\r", "\n", "\r\n", "\n\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")


def test_a_table_keeps_odd_file_names(tmp_path: Path) -> None:
    names = [
        "=1+1.mp4",
        'a "b", c.mp4',
        "line\nbreak\r.mp4",
        "走る.mp4",
        "caf\udce9.mp4",
        "-x",
        "@y",
        "+z",
        "'q",
        *(f"a{line_break}b.mp4" for line_break in LINE_BREAKS),
        *LINE_BREAKS,
    ]
    path = str(tmp_path / "table.csv")
    output_dir.write_csv(path, ["path", "n"], [(name, n) for n, name in enumerate(names)])
    assert output_dir.read_csv(path).texts("path") == names


def test_output_dir_is_made(tmp_path: Path) -> None:
    output_dir.ensure_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_output_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"OUTPUT_DIR {path} is not writable: "):
            output_dir.ensure_writable(str(path))


def test_skipped_videos_of_a_stage_are_replaced(tmp_path: Path) -> None:
    folder = str(tmp_path)
    output_dir.record_skipped(
        folder, "train", [("b.mp4", "damaged, or not a video"), ("a.mp4", "no such file")]
    )
    output_dir.record_skipped(folder, "test", [("c.mp4", "empty"), ("c.mp4", "empty")])
    output_dir.record_skipped(folder, "train", [("d.mp4", "damaged")])
    rows = [(row["path"], row["stage"], row["reason"]) for row in table_of(tmp_path / "skipped.csv")]
    assert rows == [("c.mp4", "test", "empty"), ("d.mp4", "train", "damaged")]
    output_dir.record_skipped(folder, "test", [])
    output_dir.record_skipped(folder, "train", [])
    assert (tmp_path / "skipped.csv").read_text() == "path,stage,reason\n"


def test_json_can_be_read_back(tmp_path: Path) -> None:
    content = {"top1": 97.5, "classes": ["左", None], "curves": {}}
    output_dir.write_json(str(tmp_path / "a.json"), content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert simplejson.loads(text) == content and text.endswith("}\n")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    output_dir.write_json(str(path), {"top1": 1.0})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        output_dir.write_json(str(path), {"top1": object()})
    with pytest.raises(KeyboardInterrupt), output_dir.replacing(str(path), "wb") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [("with, comma.mp4", "1"), ('"quoted"', ""), ("two\nlines", "0.5")]
    path = str(tmp_path / "a.csv")
    output_dir.write_csv(path, ["video", "label"], rows)
    table = output_dir.read_csv(path)
    assert list(zip(table.texts("video"), table.texts("label"), strict=True)) == rows
    output_dir.write_csv(path, ["video", "label"], [], comment="checkpoint 0123")
    assert Path(path).read_text() == "# checkpoint 0123\nvideo,label\n"
    assert len(output_dir.read_csv(str(tmp_path / "nowhere.csv"))) == 0


def test_lines_of_repeated_work_and_half_a_line_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / output_dir.STATS
    assert output_dir.keep_stats(str(tmp_path), bool) == [] and not path.exists()
    text = '{"stage": "train", "loss": 0.333333}\n{"stage": "mine", "labels": {"14x14": 3}}\n'
    path.write_text(text + '{"stage": "trai')
    assert len(output_dir.read_stats(str(tmp_path))) == 2
    kept = output_dir.keep_stats(str(tmp_path), lambda line: line["stage"] == "mine")
    assert kept == [{"stage": "mine", "labels": {"14x14": 3}}]
    assert path.read_text() == text.splitlines(keepends=True)[1]


def test_no_other_module_spells_a_file_name() -> None:
    constants = (value for key, value in vars(output_dir).items() if key.isupper() and isinstance(value, str))
    names = {value for value in constants if "." in value[1:]}
    assert {"results.json", "labels.csv", "report.html"} <= names
    package = Path(output_dir.__file__).parents[1]
    for file in set(package.rglob("*.py")) - {Path(output_dir.__file__)}:
        literals = {
            node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)
        }
        assert not literals & names, (file, literals & names)
