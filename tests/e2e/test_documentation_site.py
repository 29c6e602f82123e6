"""The documentation as a site: every page has its place, every link its target, and it is built strictly."""

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MKDOCS = ROOT / ".venv-docs/bin/mkdocs"
PAGES = sorted({*DOCS.rglob("*.md"), *ROOT.glob("*.md")})


def in_nav(node: object) -> set[str]:
    if isinstance(node, str):
        return {node}
    return {page for each in node for page in in_nav(node[each] if isinstance(node, dict) else each)}


def test_every_page_has_its_place_in_the_navigation():
    config = YAML(typ="safe", pure=True).load(ROOT / "mkdocs.yml")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    listed = in_nav(config["nav"])

    assert {page for page in pages if not page.startswith("decisions/")} - listed == set()
    assert [page for page in listed if not (DOCS / page).is_file() and not (ROOT / page).is_file()] == []


def test_every_decision_is_in_their_list():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "decisions/README.md").read_text()))

    assert linked == {page.name for page in (DOCS / "decisions").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]+)", text)

    assert [each for each in links if ":" not in each and not (page.parent / each).exists()] == []


def test_what_builds_the_site_is_pinned_with_hashes():
    text = (DOCS / "constraints.txt").read_text()
    blocks = re.split(r"\n(?=\w)", text)

    assert re.search(r"^mkdocs-material==", text, re.MULTILINE)
    assert [block for block in blocks if "==" in block and "--hash=sha256:" not in block] == []
    assert "://" not in text


@pytest.mark.skipif(
    not MKDOCS.exists(), reason="mkdocs is not installed; .ci/docs installs it and builds the site"
)
def test_the_site_is_built_strictly_and_brings_everything_along(tmp_path):
    done = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    shown = [(page.name, page.read_text()) for page in tmp_path.rglob("*.html")]
    assert [name for name, text in shown if "```" in text] == []
    elsewhere = [
        (name, found)
        for name, text in shown
        for found in re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="?(https?://[^\s">]+)', text)
    ]
    assert elsewhere == []
