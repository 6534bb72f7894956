"""report.html: whole without network, made from whatever files there are, and always the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from revit_video.report import write_labels_picture, write_report
from revit_video.report.files import Run
from revit_video.report.page import SECTIONS
from tests.toy import tool

PICTURES = ("accuracy_cost", "lengths_per_class", "labels", "confusion", "training")
TITLES = [title for title, _ in SECTIONS]
CHOSEN = ["Lengths chosen", "Classes that gain and lose", "Easy, medium and hard clips", "Mistakes"]


class Headings(HTMLParser):
    """Headings of a page, and its tags counted."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "h2" and data.strip() and data in TITLES:
            self.titles.append(data)


def page(directory: Path) -> str:
    return Path(write_report(str(directory))).read_text(encoding="utf-8")


def section(directory: Path, title: str) -> str:
    """One section alone, which is sooner drawn than the page."""
    return dict(SECTIONS)[title](Run(str(directory)))


def left_out(html: str) -> list[str]:
    return re.findall(r'<section class="absent"><h2>(.*?)</h2><p>Left out: [^<]+\.</p>', html)


def test_all_sections_and_pictures(run_dir: Path) -> None:
    html = page(run_dir)
    parsed = Headings(html)
    assert parsed.titles == TITLES
    assert not left_out(html)
    for name in PICTURES:
        assert (run_dir / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((run_dir / "results.json").read_text())
    assert results["command"] in html
    assert f"{results['adaptive']['top1']:.1f} %" in html
    assert all(text in html for text in ("2026-01-02 03:04 UTC", "0123abc", 'href="predictions.csv"'))


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ({"holds": False, "needed": 5200}, "Not certified: a drop of at most 0.5 points"),
        ({"holds": False, "needed": 5200}, "about 5,200 videos would do"),
        ({"holds": False, "needed": None}, "the estimated drop is too large for any number"),
        ({"holds": True, "needed": None}, "(95 % confidence, 600 videos of val)"),
        (None, "No drop was promised."),
    ],
)
def test_what_is_shipped_is_shown_with_its_paths_and_certificate(
    certificate: dict[str, object] | None, words: str, run_dir: Path
) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    entry = results["adaptive"] | {
        "threshold": 0.9,
        "averaged": True,
        "policy": "hybrid",
        "assigner_gmacs": 0.0,
        "path_counts": {"3x3": 450, "3x3 4x4 6x6": 150},
        "certificate": certificate and {"max_drop": 0.5, "confidence": 0.95, "videos": 600, **certificate},
    }
    results["adaptive"] = entry
    results["curves"]["hybrid"] = [{"threshold": 0.9, "gmacs": entry["gmacs"], "top1": entry["top1"]}]
    (run_dir / "results.json").write_text(json.dumps(results))
    html = section(run_dir, "In short")
    assert words in html
    assert "3x3 → 4x4 → 6x6 150 25" in " ".join(re.sub("<[^>]*>", " ", html).split())
    assert "adaptive: hybrid, " in html and "No assigner is asked, confidence 0.900 is enough" in html


def test_where_adapting_does_not_pay_the_page_says_so(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    results["adaptive"]["lengths"] = ["6x6"]
    (run_dir / "results.json").write_text(json.dumps(results))
    assert "Adapting does not pay here: what is shipped is always 6x6." in section(run_dir, "In short")


def test_the_labels_are_drawn_as_when_they_were_mined(run_dir: Path) -> None:
    run = Run(str(run_dir))
    drawn = Path(write_labels_picture(str(run_dir), run.labels, run.class_names))
    before = drawn.read_bytes()
    page(run_dir)
    assert drawn.name == "labels.png" and drawn.read_bytes() == before


def test_needs_no_network(run_dir: Path) -> None:
    html = page(run_dir)
    assert not re.search(r"https?://|//\w+\.|url\((?!#)|@import|<script[^>]* src", html)
    assert not {"link", "iframe", "object", "embed"} & set(Headings(html).tags)
    sources = re.findall(r'src="([^"]*)"', html)
    assert sources and all(source.startswith(("data:image/", "data:video/mp4")) for source in sources)


def test_same_files_give_the_same_page(run_dir: Path) -> None:
    first = page(run_dir)
    pictures = {path.name: path.read_bytes() for path in run_dir.glob("*.png")}
    assert page(run_dir) == first
    assert {path.name: path.read_bytes() for path in run_dir.glob("*.png")} == pictures


@pytest.mark.parametrize(
    ("file", "sections"),
    [
        ("results.json", ["In short", "Accuracy and cost", "Other operating points", "How it was made"]),
        ("predictions.csv", [*CHOSEN, "Confusion"]),
        ("labels.csv", ["Mined labels"]),
        ("stats.jsonl", ["Training"]),
        ("config.yaml", []),
    ],
)
def test_a_missing_or_empty_file_costs_only_its_sections(
    run_dir: Path, file: str, sections: list[str]
) -> None:
    (run_dir / file).write_text("")
    if file != "config.yaml":
        assert left_out(page(run_dir)) == sections
    (run_dir / file).unlink()
    assert left_out(page(run_dir)) == sections


def test_an_empty_run_leaves_out_every_section(tmp_path: Path) -> None:
    (tmp_path / "stats.jsonl").touch()
    assert left_out(page(tmp_path)) == TITLES


def test_a_folder_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run's folder"):
        write_report(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_report(str(tmp_path / "nowhere"))


def test_a_run_without_the_adaptive_policy(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    (run_dir / "results.json").write_text(
        json.dumps(results | {"adaptive": None, "policies": {}, "curves": {}})
    )
    rows = [line.split(",") for line in (run_dir / "predictions.csv").read_text().splitlines()]
    (run_dir / "predictions.csv").write_text("\n".join(",".join(row[:2] + row[4:]) for row in rows) + "\n")
    html = page(run_dir)
    assert left_out(html) == ["Other operating points", *CHOSEN[:3]]
    assert "Test videos by true and predicted class, always 6x6;" in html


def test_400_classes(make_run: Callable[[list[str], int], Path]) -> None:
    run = make_run([f"doing <thing> {n}" for n in range(400)], 1200)
    html = page(run)
    assert not left_out(html)
    assert not (run / "confusion.png").exists()
    assert html.count("doing &lt;thing&gt;") > 20
    assert "<thing>" not in html


ODD_NAMES = [
    *("$x^2$ costs $", "<script>alert(1)</script>", "a\nb\x07\x1b[31m", "שלום abc", "مرحبا", "走る"),
    *('=1+1, "quoted"', "\\frac{1", "%s {0} & _^", "n" * 300, "caf\udce9", " "),
]


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("more", [0, 30])  # a matrix of confusions, or a table
def test_odd_class_names(make_run: Callable[[list[str], int], Path], more: int) -> None:
    html = page(make_run(ODD_NAMES + [f"{name}{n}" for n, name in enumerate(3 * ODD_NAMES)][:more], 600))
    assert not left_out(html)
    assert "<script>alert" not in html and not re.search(r"[\x00-\x09\x0b-\x1f]", html)
    shown = ("a\\nb\\x07\\x1b[31m", "$x^2$ costs $", "&lt;script&gt;", "<bdi>مرحبا</bdi>", "n" * 300)
    assert (all if more else any)(name in html for name in shown)


def test_the_paths_and_the_certificate_of_the_policy_that_ships(run_dir: Path) -> None:
    html = section(run_dir, "In short")
    for text in (
        "3x3 → 6x6",
        "The assigner picks the first length, confidence 0.930 is enough",
        "Certified: a drop",
    ):
        assert text in html


def test_the_clocks_control_is_on_the_page(run_dir: Path) -> None:
    assert "timed a second time" not in section(run_dir, "In short")
    results = json.loads((run_dir / "results.json").read_text())
    results["clock"] = {"control": {"speedup": 0.987, "speedup_quartiles": [0.951, 1.024]}}
    (run_dir / "results.json").write_text(json.dumps(results))
    assert "timed a second time in each round: 0.99x, quartiles 0.95 to 1.02;" in section(run_dir, "In short")


def test_unnamed_classes(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text()) | {"classes": None}
    (run_dir / "results.json").write_text(json.dumps(results))
    assert Run(str(run_dir)).class_names == [f"class {n}" for n in range(6)]
    assert not left_out(page(run_dir))


def test_gallery_flags_mistakes_and_passes_over_unreadable_videos(run_dir: Path) -> None:
    html = section(run_dir, "Easy, medium and hard clips")
    assert html.count('<figure class="card right"') >= 6
    assert html.count('<figure class="card wrong"') >= 1
    assert "gone/" not in html
    (run_dir / "predictions.csv").write_text(
        re.sub(r"(?m)^/.*/", "/gone/", (run_dir / "predictions.csv").read_text())
    )
    assert "None of these videos is in the data folder any more;" in section(
        run_dir, "Easy, medium and hard clips"
    )


def test_repeated_steps_count_once(run_dir: Path) -> None:
    lines = [
        {"stage": "train", "step": 10, "loss_6x6": 1.0},
        {"stage": "train", "step": 20, "loss_6x6": 2.0},
        {"stage": "train", "step": 30, "loss_6x6": 3.0},
        {"stage": "train", "step": 20, "loss_6x6": 4.0},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"stage": "train", "ste'
    (run_dir / "stats.jsonl").write_text(text)
    assert [line["loss_6x6"] for line in Run(str(run_dir)).stats["train"]] == [1.0, 4.0]


def test_tool(run_dir: Path) -> None:
    assert tool("report", run_dir) == (0, f"{run_dir / 'report.html'}\n", "")
    assert tool("report", "nowhere") == (2, "", "error: nowhere: no such folder\n")
