"""
One commit of the fleet, and one file of its specs: where every fact on a page comes from.
"""

import re

from reconciler.api.pages.code import code_lines
from reconciler.api.pages.diff import shown_diff
from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.core.errors import NotFound

_TRAILER = re.compile(r"^(?P<key>[A-Z][A-Za-z-]+): (?P<value>.+)$")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


async def commit_page(visit: Visit) -> View:
    """Show a commit of the specs or the record as git tells it."""
    info = await visit.fleet.services.commit(visit.name)
    subject, _, rest = info.message.strip().partition("\n")
    body, trailers = split_trailers(rest.strip())
    values = {
        "info": info,
        "subject": subject,
        "body": body,
        "trailers": trailers,
        "diff": await shown_diff(info.patch, visit.query.get("file")),
    }
    return View("commit.html", f"Commit {info.commit[:10]}", values)


def split_trailers(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the words of a commit, and its trailers: the last paragraph, if that is nothing else."""
    before, _, last = text.rpartition("\n\n")
    matches = [_TRAILER.match(line) for line in last.splitlines()]
    if not last or not all(matches):
        return text, []
    return before, [(match["key"], match["value"]) for match in matches if match]


async def file_page(visit: Visit) -> View:
    """Show a file of the specs that are in force."""
    file = await visit.fleet.services.file(visit.name)
    values = {"path": visit.name, "file": file, "lines": code_lines(visit.name, file.text)}
    return View("file.html", visit.name, values)


def check_commit(text: str) -> str:
    """Return the id of a commit, whole or its beginning. Raises NotFound for what is none."""
    if not _COMMIT.fullmatch(text):
        raise NotFound(f"{text[:64]!r} is no commit: 7 to 64 digits, 0 to 9 and a to f")
    return text


def check_path(text: str) -> str:
    """Return the path of a file of the specs. Raises NotFound for any other."""
    parts = text.split("/")
    if parts[0] != "specs" or any(part in {"", ".", ".."} for part in parts) or not text.isprintable():
        raise NotFound(f"{text[:200]!r} is no file below specs/")
    return text
