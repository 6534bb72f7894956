"""Style sheet and frame of report.html, without scripts or external resources."""

from __future__ import annotations

from html import escape

from revit_video.runtime.text import printable

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: #1f2933;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 20px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 0 0 14px; }
h3 { font-size: 16px; margin: 22px 0 10px; display: flex; align-items: center; gap: 9px; }
small { color: #66727f; font-weight: 400; }
section { background: #fff; border: 1px solid #e3e8ed; border-radius: 10px;
          padding: 22px 26px; margin: 0 0 18px; }
section.absent { background: none; border-style: dashed; color: #66727f; padding: 14px 26px; }
section.absent h2 { margin: 0; font-size: 16px; }
section p { margin: 10px 0 0; }
figure { margin: 0; }
.picture { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption, .caption { color: #66727f; font-size: 14px; margin-top: 10px; }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px;
            margin-bottom: 20px; }
.headline div { border-left: 3px solid #e4572e; padding-left: 13px; }
.headline b { display: block; font-size: 31px; line-height: 1.15; letter-spacing: -.02em; }
.headline span, .headline small { display: block; font-size: 14px; line-height: 1.4; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { color: #66727f; font-weight: 600; border-bottom: 1px solid #cbd2d9; }
th, td { text-align: right; padding: 6px 9px; }
td { border-bottom: 1px solid #eef1f4; }
th:first-child, td:first-child { text-align: left; }
th, td, .card b { overflow-wrap: anywhere; }
tr.chosen td { font-weight: 650; background: #fdf1ed; }
.chip { color: #fff; border-radius: 5px; padding: 1px 8px; font-size: 14px; text-shadow: 0 0 3px #0006; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px; align-items: start; }
.card { border: 1px solid #e3e8ed; border-radius: 7px; overflow: hidden; }
.card.wrong { border-color: #d64545; }
.card.wrong b { color: #b83232; }
.frames { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 1px; }
.cards.images { grid-template-columns: repeat(6, 1fr); }
.frames img { display: block; width: 100%; }
.card figcaption { margin: 0; padding: 6px 10px; font-size: 13px; line-height: 1.35; }
.card b { display: block; color: #1f2933; font-weight: 600; }
.card span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
pre { background: #f4f6f8; border-radius: 6px; padding: 12px 14px; margin: 0;
      font-size: 13px; line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 12px; }
summary { cursor: pointer; margin-bottom: 8px; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body><main>
<h1>{title}</h1>
{body}
</main></body>
</html>
"""


def as_html(text: str) -> str:
    """`text` on one line; its direction of writing does not turn what stands around it."""
    return f"<bdi>{escape(printable(text))}</bdi>"
