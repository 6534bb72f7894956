"""The pages name files, links and config keys that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from revit_video.config import get_cfg, yaml_options

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which names keys that are gone


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def has_key(cfg: CfgNode, key: str) -> bool:
    first, _, rest = key.partition(".")
    return first in cfg and (not rest or isinstance(cfg[first], CfgNode) and has_key(cfg[first], rest))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_demos_table_has_a_row_for_every_policy_of_its_figure() -> None:
    policies = {"adaptive", "confidence cascade", "random", "oracle"}
    lengths = yaml_options(str(ROOT / "configs/Synthetic/ReViT_TimeSformer-tiny_divST_4x4_48.yaml"))
    named = dict(zip(lengths[::2], lengths[1::2], strict=True))["REVIT.TOKEN_LENGTHS"]
    rows = re.findall(r"^\| \**([^|*]+?)\** \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    for name in policies | {f"always {length.replace('x', '×')}" for length in named}:
        assert any(row.startswith(name) for row in rows), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tools_and_configs_exist(page: Path) -> None:
    named = re.findall(r"\b(?:tools|configs)/[\w/.-]+\.(?:py|sh|yaml)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_config_keys_exist(page: Path) -> None:
    cfg = get_cfg()
    groups = "|".join(name for name, value in cfg.items() if isinstance(value, CfgNode))
    keys = set(re.findall(rf"\b(?:{groups})(?:\.[A-Z][A-Z_0-9]+)+", page.read_text()))
    assert [key for key in sorted(keys) if not has_key(cfg, key)] == []
