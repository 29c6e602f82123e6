"""
Diffs: of the branch of a task against what it started from, and of a commit of the fleet.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from reconciler.api.pages.code import DiffFile, diff_files
from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.api.pages.task import has_diff
from reconciler.core.errors import NotFound

BUDGET = 60_000
"""Characters of diffs on one page; of what is over that, one file at a time."""


class ShownDiff(NamedTuple):
    """A diff, as much of it as a page holds."""

    files: Sequence[DiffFile]
    """All of them."""
    open: frozenset[str]
    """Paths of those whose lines are shown."""
    added: int
    deleted: int


async def shown_diff(text: str, only: str | None, budget: int = BUDGET) -> ShownDiff:
    """Return a diff for a page, with the lines of one file, or of the first ones that there is room for."""
    files = await asyncio.to_thread(lambda: list(diff_files(text)))
    is_open = {each.path for each in files if each.path == only} if only else _first(files, budget)
    added, deleted = sum(each.added for each in files), sum(each.deleted for each in files)
    return ShownDiff(files, frozenset(is_open), added, deleted)


def _first(files: Sequence[DiffFile], budget: int) -> set[str]:
    is_open, left = set[str](), budget
    for each in files:
        if each.size <= left:
            is_open.add(each.path)
            left -= each.size
    return is_open


async def diff_page(visit: Visit) -> View:
    """Show what a task's branch changes."""
    model = await visit.fleet.model_with(visit.name)
    view = model.task(visit.name)
    if not model.has(visit.name):
        raise NotFound(f"no task {visit.name}; /tasks lists them")
    status = view.status
    if not has_diff(view) or status is None:
        raise NotFound(f"{visit.name} has delivered no work yet, so there is nothing to compare")
    base, head = status.base_commit or "", status.head_commit or ""
    text = await visit.fleet.services.diff(view.repo or "", base, head)
    values = {
        "task": view,
        "has_diff": True,
        "base": base,
        "head_commit": head,
        "diff": await shown_diff(text, visit.query.get("file")),
        "commits": await visit.fleet.services.last_commits(),
    }
    return View("diff.html", f"Diff of {visit.name}", values)
