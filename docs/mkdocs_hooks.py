"""
Hooks of mkdocs: files from outside of docs/ that pages link to, and the lifecycle as a table.

On a forge a page links to `../deploy/reconciler.service` and draws Mermaid; the
site brings such files along, and fetches no script from elsewhere to draw.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md")
"""Pages of the site that lie in the root, where forges look for them."""
_LINK = re.compile(r"(?<=\]\()[\w./-]+(?=[)#])")
_FENCE = re.compile(r"^(```\w+) \w+$", re.MULTILINE)
"""A block of code with a word for the test that runs it, which mkdocs would take for no block."""
_TRANSITION = re.compile(r"^ +(\S+) --> (\S+)(?:: (.+))?$")


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to outside of docs/."""
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    pages += [(f"../{name}", (ROOT / name).read_text(encoding="utf-8")) for name in OUTSIDE]
    linked = {place for uri, text in pages for place in _linked(uri, text) if not place.startswith("docs/")}
    for place in sorted({*OUTSIDE, *linked}):
        if (ROOT / place).is_file():
            files.append(File.generated(config, place, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at where files are on the site, and show diagrams as tables."""
    uri = page.file.src_uri
    home = f"../{uri}" if (ROOT / uri).is_file() else uri
    markdown = _FENCE.sub(r"\1", markdown)
    text = re.sub(r"```mermaid\n(.*?)```\n", lambda found: _table(found[1]), markdown, flags=re.DOTALL)
    return _LINK.sub(lambda found: _on_site(home, uri, found[0]), text)


def _linked(uri: str, text: str) -> Iterator[str]:
    """Yield the files that a page links to, from the root of the repository."""
    for link in _LINK.findall(text):
        yield _place(uri, link)


def _place(home: str, link: str) -> str:
    return normpath(f"docs/{dirname(home)}/{link}")


def _on_site(home: str, uri: str, link: str) -> str:
    place = _place(home, link)
    if (ROOT / place).is_dir():
        place += "/README.md"
    return relpath(place.removeprefix("docs/"), dirname(uri) or ".") if (ROOT / place).is_file() else link


def _table(diagram: str) -> str:
    """Return the transitions of a state diagram as a table."""
    rows = [found.groups("") for line in diagram.splitlines() if (found := _TRANSITION.match(line))]
    lines = [f"| {before} | {after} | {event} |" for before, after, event in rows]
    return "\n".join(["| from | to | by |", "|---|---|---|", *lines, ""]).replace("[*]", "(none)")
