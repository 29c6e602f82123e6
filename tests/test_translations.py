"""
Translations are in step with what they translate.

Below each heading of a translated page stands which section it is a translation of, and a digest of
that section as it was then: `<!-- en README.md: Two commands @ 1a2b3c4d -->`.
"""

import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/zh-CN").glob("*.md"))
HEADING = re.compile(r"^#{1,2} (.+)$", re.MULTILINE)
MARK = re.compile(r"<!-- en (\S+): (.+?)(?: @ (\w+))? -->")
BLOCK = re.compile(r"^```\w*[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"\s+# .*$|\s{3,}#.*$", re.MULTILINE)

parametrize = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def sections(text: str) -> dict[str, str]:
    """Return the sections of a page by their headings; `#` in blocks of code begins none."""
    masked = BLOCK.sub(lambda found: "x" * len(found[0]), text)
    headings = list(HEADING.finditer(masked))
    ends = [each.start() for each in headings[1:]] + [len(text)]
    return {each[1]: text[each.end() : end].strip() for each, end in zip(headings, ends, strict=True)}


def digest(section: str) -> str:
    return hashlib.sha256(section.encode()).hexdigest()[:8]


def commands(section: str) -> list[str]:
    """Return the blocks of code without their comments, which are translated."""
    return [COMMENT.sub("", block) for block in BLOCK.findall(section)]


def stale(page: Path) -> list[str]:
    """Return what to do about each section that changed since it was translated."""
    marks = [MARK.search(section) for section in sections(page.read_text()).values()]
    return [line for mark in marks if mark and (line := outdated(mark))]


def outdated(mark: re.Match[str]) -> str | None:
    there = sections((ROOT / mark[1]).read_text())
    if mark[2] not in there:
        return f"{mark[1]} has no section {mark[2]!r} any more"
    now = digest(there[mark[2]])
    return None if now == mark[3] else f"translate anew, then write: <!-- en {mark[1]}: {mark[2]} @ {now} -->"


@parametrize
def test_every_section_is_a_translation_of_the_section_as_it_is_now(page):
    assert stale(page) == []


@parametrize
def test_every_section_is_translated_in_the_same_order(page):
    marks = [MARK.search(section) for section in sections(page.read_text()).values()]

    assert None not in marks
    source = {mark[1] for mark in marks}
    assert len(source) == 1
    assert [mark[2] for mark in marks] == list(sections((ROOT / source.pop()).read_text()))


@parametrize
def test_commands_are_those_of_the_original(page):
    for section in sections(page.read_text()).values():
        mark = MARK.search(section)
        original = sections((ROOT / mark[1]).read_text())[mark[2]]

        assert commands(section) == commands(original)


def test_a_change_of_the_original_is_told_with_the_line_to_write(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(
        "# reconciler\n<!-- en README.md: Promises @ 00000000 -->\n\n## b\n<!-- en README.md: Gone -->\n"
    )

    changed, gone = stale(page)

    assert re.fullmatch(r"translate anew, then write: <!-- en README.md: Promises @ \w{8} -->", changed)
    assert gone == "README.md has no section 'Gone' any more"
